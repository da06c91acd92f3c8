"""Where each rank is in its step, so that a run that hangs ends and says which rank did not arrive at which collective.

torch's timeout names a collective of the rank that waited, and nothing of the rank that it waited for. It does not come at all
where a rank is stopped outside of a collective.
"""

import json
import linecache
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from shardwright.base import RanksHungError, SpecError, read_json, record_failure, write_whole

_POLL_SECONDS = 1.0
_SETTLE_SECONDS = 3.0
"""So long the first report waits for those of the other ranks: a few polls."""

_COLLECTIVES = frozenset(
    {
        "all_gather",
        "all_gather_coalesced",
        "all_gather_into_tensor",
        "all_gather_object",
        "all_gather_single",
        "all_reduce",
        "all_to_all",
        "all_to_all_single",
        "barrier",
        "batch_isend_irecv",
        "broadcast",
        "broadcast_object_list",
        "gather_object",
        "recv",
        "reduce_scatter_tensor",
        "scatter_object_list",
        "send",
        "wait_tensor",
    }
)
_DISTRIBUTED = os.sep + os.path.join("torch", "distributed") + os.sep


@dataclass(frozen=True)
class _Place:
    """Where a rank has been for `seconds`: in a part of a step, waiting in a collective of torch or not."""

    rank: int
    step: int
    part: str
    collective: str | None
    seconds: float

    def __str__(self) -> str:
        return f"rank {self.rank} {'waits in ' + self.collective if self.collective else 'is busy'} ({self.part})"


class Watch:
    """Watches that this rank goes from one part of the run to the next within `limit_seconds`.

    When it does not, every rank leaves its place in `folder`. The lowest rank of those that can say it then records as failure which
    rank did not arrive, and all end. `end` ends the process; tests replace it.
    """

    def __init__(
        self, folder: Path, *, rank: int, ranks: int, limit_seconds: float, end: Callable[[int], None] = os._exit
    ) -> None:
        self._folder, self._rank, self._ranks, self._limit_seconds, self._end = folder, rank, ranks, limit_seconds, end
        self._watched = threading.main_thread().ident
        self._over = threading.Event()
        self.at(0, "start")
        self._thread = threading.Thread(target=self._look, daemon=True, name="watch")

    def start(self) -> None:
        if self._rank == 0:
            for old in self._folder.glob("waits-*.json"):
                old.unlink()
        self._thread.start()

    def at(self, step: int, part: str) -> None:
        """Say that this rank has come to a part of a step."""
        self._now = (step, part, time.monotonic())

    def close(self) -> None:
        self._over.set()

    def _look(self) -> None:
        poll_seconds = min(_POLL_SECONDS, self._limit_seconds / 4)
        while not self._over.wait(poll_seconds):
            if self._here().seconds > self._limit_seconds or self._heard():
                break
        else:
            return
        here = self._here()
        try:
            write_whole(self._folder / f"waits-{self._rank}.json", json.dumps(asdict(here)))
            self._over.wait(_SETTLE_SECONDS)
            places = self._heard()
            if min(places, default=self._rank) == self._rank:
                message = missing(places, ranks=self._ranks, limit_seconds=self._limit_seconds)
                late = [rank for rank in range(self._ranks) if rank not in places or not places[rank].collective]
                hung = tuple(late) if len(late) < self._ranks else ()  # where none waits, none is to blame
                record_failure(self._folder, min(late, default=self._rank), RanksHungError(message, hung))
            else:
                self._over.wait(_SETTLE_SECONDS)
        except SpecError as error:  # a full disk
            print(f"{here}: {error}", file=sys.stderr, flush=True)
        self._end(1)

    def _here(self) -> _Place:
        step, part, since = self._now
        return _Place(self._rank, step, part, self._collective(), time.monotonic() - since)

    def _collective(self) -> str | None:
        """The collective of torch that the watched thread is in, by its Python frames; None where it is in none.

        A wait for one that was begun earlier has no such frame: it is named by the function that waits.
        """
        innermost = sys._current_frames().get(self._watched or 0)
        frame, found = innermost, None
        while frame is not None:
            if frame.f_code.co_name in _COLLECTIVES and _DISTRIBUTED in frame.f_code.co_filename:
                found = frame.f_code.co_name  # the outermost is the one that was called
            frame = frame.f_back
        if found is None and innermost is not None:
            line = linecache.getline(innermost.f_code.co_filename, innermost.f_lineno)
            if _DISTRIBUTED in innermost.f_code.co_filename or ".wait(" in line:
                found = innermost.f_code.co_name
        return found

    def _heard(self) -> dict[int, _Place]:
        """The places that ranks have left, by rank."""
        places = [_Place(**read_json(path)) for path in self._folder.glob("waits-*.json")]
        return {place.rank: place for place in places}


def missing(places: dict[int, _Place], *, ranks: int, limit_seconds: float) -> str:
    """Say in one line which rank did not arrive, and where the others wait."""
    silent = [rank for rank in range(ranks) if rank not in places]
    waiting = [place for place in places.values() if place.collective]
    busy = [place for place in places.values() if not place.collective]
    step = min((place.step for place in places.values()), default=0)
    head = f"step {step}: no rank has gone on for {limit_seconds:.0f} s"
    late = [f"rank {rank} says nothing (it is stopped, or its machine is gone)" for rank in silent]
    late += [f"rank {place.rank} is in {place.part} of step {place.step}" for place in busy]
    if not waiting:
        return f"{head}; {'; '.join(late)}"
    where = waiting[0]
    who = ", ".join(str(place.rank) for place in waiting)
    at = f"where rank {who} waits ({where.part})"
    if late:
        absent = ", ".join(str(rank) for rank in [*silent, *(place.rank for place in busy)])
        return f"{head}: rank {absent} did not arrive at {where.collective}, {at}; {'; '.join(late)}"
    return f"{head}: all ranks wait, for different things: {'; '.join(map(str, waiting))}"
