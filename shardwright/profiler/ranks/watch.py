"""Detection of dead ranks: others that compute, or wait in a kernel that nothing interrupts, must not hang."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from torch.distributed.distributed_c10d import Store

_POLL_SECONDS = 1.0


def end_process(why: str) -> None:
    """End at once without cleaning up: the main thread may be inside a collective that never returns."""
    print(why, file=sys.stderr, flush=True)
    os._exit(1)


@dataclass(frozen=True)
class WatchTimes:
    """The interval at which a rank shows that it lives, and the silence after which it counts as dead."""

    beat_seconds: float = 2.0
    silent_seconds: float = 30.0


class RankWatch:
    """Counts in the store to show that this rank lives. Rank 0 watches all others, and they watch rank 0.

    When one has been silent too long, or the store is gone, `end` is called with one line. This runs in its own thread
    over its own connection, because the main thread may wait at the store for a dead rank.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        size: int,
        *,
        times: WatchTimes | None = None,
        end: Callable[[str], None] = end_process,
    ) -> None:
        self._store: Store = store.clone()  # type: ignore[attr-defined]  # torch's stubs lack it
        self._rank = rank
        self._times, self._end = times or WatchTimes(), end
        others = range(1, size) if rank == 0 else range(1)
        self._seen = {other: (0, time.monotonic()) for other in others}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rank-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop watching, and tell the others that this rank has left."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(self._times.beat_seconds + _POLL_SECONDS)
        with contextlib.suppress(RuntimeError):
            self._store.set(f"left-{self._rank}", "1")

    def _run(self) -> None:
        while not self._stopped.wait(self._times.beat_seconds):
            try:
                self._store.add(f"alive-{self._rank}", 1)
                missing = self._missing()
            except RuntimeError:
                if not self._stopped.is_set():
                    self._end("rank 0 is gone, and the shared store with it")
                return
            if missing is not None:
                self._end(f"rank {missing} has been silent for {self._times.silent_seconds:.0f} s and counts as dead")
                return

    def _missing(self) -> int | None:
        """Return a rank that neither counted recently nor left, or None."""
        now = time.monotonic()
        for other, (count, when) in self._seen.items():
            current = self._store.add(f"alive-{other}", 0)  # adding 0 reads the value without waiting for it
            if current != count:
                self._seen[other] = (current, now)
            elif now - when > self._times.silent_seconds and not self._store.check([f"left-{other}"]):
                return other
        return None
