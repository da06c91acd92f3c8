"""The ranks of a run on this machine, as child processes of the launcher: started, watched, stopped, started again."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

from shardwright.base import (
    PARENT,
    STOPPED,
    Failure,
    RunFailedError,
    SpecError,
    first_failure,
    threads_per_rank,
)
from shardwright.executor.ranks import STORE
from shardwright.executor.training import LAUNCHER, RunFolder

from .elastic import RanksGoneError
from .signals import Signals
from .worker import FAILED

_POLL_SECONDS = 0.1
_LAST_WORDS_SECONDS = 2.0
"""So long the other ranks may take to end by themselves, and to say why, once one has ended."""


class Workers:
    """The processes of one attempt. Their stderr goes to files; what they print is passed on line by line."""

    def __init__(
        self,
        folder: RunFolder,
        ranks: int,
        store: Path,
        logs: Path,
        progress: Callable[[str], None],
        environment: Mapping[str, str],
    ) -> None:
        self.logs = logs
        self.unwritten: list[str] = []
        """What ranks said that could not write their failure."""
        self.lost: dict[int, int] = {}
        """The exit codes of the ranks that ended first and not well, by rank, as `subprocess` gives them."""
        reading, writing = os.pipe()
        try:
            self.processes = [_start(folder, rank, ranks, store, logs, writing, environment) for rank in range(ranks)]
        finally:
            os.close(writing)
        self._reader = threading.Thread(target=self._forward, args=(os.fdopen(reading, errors="replace"), progress))
        self._reader.daemon = True
        self._reader.start()

    def wait(self, failed: Callable[[], bool], stopping: Callable[[], bool]) -> None:
        """Wait for the end of all ranks. Once one has ended badly, or `failed` says so, the others get a moment and are killed."""
        deadline, asked = float("inf"), False
        while any(process.poll() is None for process in self.processes):
            if stopping() and not asked:
                asked = True
                self._signal(signal.SIGTERM)
            codes = [process.poll() for process in self.processes]
            ended = {rank: code for rank, code in enumerate(codes) if code}
            if (ended or failed()) and deadline == float("inf"):
                self.lost, deadline = ended, time.monotonic() + _LAST_WORDS_SECONDS
            if time.monotonic() > deadline:
                self._signal(signal.SIGKILL)
            time.sleep(_POLL_SECONDS)
        if not self.lost:
            codes = [process.returncode for process in self.processes]
            self.lost = {rank: code for rank, code in enumerate(codes) if code}
        self._reader.join(_LAST_WORDS_SECONDS)  # a compiler's process may still hold the pipe

    @property
    def stopped(self) -> bool:
        """Whether a rank ended as it was asked to."""
        return STOPPED in self.lost.values()

    @property
    def died_of_it(self) -> bool:
        """Whether a rank was so young that a signal to stop ended it."""
        return not {-signal.SIGTERM, -signal.SIGINT}.isdisjoint(self.lost.values())

    def kill(self) -> None:
        """End what is left at once."""
        self._signal(signal.SIGKILL)
        for process in self.processes:
            process.wait()

    def _signal(self, number: signal.Signals) -> None:
        for process in self.processes:
            process.send_signal(number)  # none where it has ended

    def _forward(self, lines: IO[str], progress: Callable[[str], None]) -> None:
        with lines:
            for line in lines:
                if FAILED in line:
                    self.unwritten.append(line.rstrip("\n"))
                else:
                    progress(line.rstrip("\n"))


def run_workers(
    folder: RunFolder,
    ranks: int,
    restarts: int,
    progress: Callable[[str], None],
    signals: Signals | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run the prepared folder's ranks to their end. When some are lost, all are started again, up to `restarts`
    times. A first signal lets the ranks finish their step and save, a second one ends them at once. `environment`: further variables of
    the ranks.

    Raises:
        SpecError, RunFailedError: a rank left a failure, or ended without one. `RanksGoneError`: some ended first.
        SystemExit: a signal stopped the run: 128 + its number.
    """
    shutil.rmtree(folder.logs, ignore_errors=True)
    for left in folder.path.glob(".ranks-*"):  # of a launcher that was killed
        shutil.rmtree(left, ignore_errors=True)
    with (
        signals or Signals(progress) as heard,
        tempfile.TemporaryDirectory(prefix=".ranks-", dir=folder.path) as private,
    ):
        for attempt in range(restarts + 1):
            logs = folder.logs / f"attempt_{attempt}"
            store = Path(private) / f"store-{attempt}"
            with _running(folder, ranks, store, logs, progress, environment or {}) as workers:
                heard.at_once = workers.kill
                # a restart cannot correct a user's mistake
                workers.wait(lambda: _kind(first_failure(folder.failures)) == "spec", lambda: heard.number is not None)
            if not workers.lost:
                return
            if workers.stopped or (heard.number is not None and workers.died_of_it):
                raise SystemExit(128 + (heard.number or signal.SIGTERM))
            error = _error(folder, workers)
            if isinstance(error, SpecError) or attempt == restarts:
                raise error
            progress(f"{error}; all ranks start again")
            shutil.rmtree(folder.failures)
            folder.failures.mkdir()


@contextlib.contextmanager
def _running(
    folder: RunFolder,
    ranks: int,
    store: Path,
    logs: Path,
    progress: Callable[[str], None],
    environment: Mapping[str, str],
) -> Iterator[Workers]:
    workers = Workers(folder, ranks, store, logs, progress, environment)
    try:
        yield workers
    finally:
        workers.kill()


def _start(
    folder: RunFolder, rank: int, ranks: int, store: Path, logs: Path, output: int, given: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    """Start one rank. It knows its place by torchrun's variables.

    With PYTHONSAFEPATH a folder `executor` or `profiler` in the user's working directory is not imported. In their own
    sessions, ranks get Ctrl-C only from us.
    """
    own = logs / str(rank)
    own.mkdir(parents=True)
    environment = os.environ | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "PYTHONSAFEPATH": "1",
        "OMP_NUM_THREADS": str(threads_per_rank(ranks)),
        LAUNCHER: folder.launcher,
        PARENT: str(os.getpid()),
        STORE: str(store),
        **given,
    }
    with (own / "stderr.log").open("wb") as log:
        return subprocess.Popen(
            _command(folder),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=log,
            start_new_session=True,
        )


def _command(folder: RunFolder) -> list[str]:
    return [sys.executable, "-m", "shardwright.executor.run.worker", str(folder.path)]


def _kind(failure: Failure | None) -> str | None:
    return failure.kind if failure else None


def _error(folder: RunFolder, workers: Workers) -> SpecError | RunFailedError:
    """Return what to tell: a user's mistake, then the rank that was killed, as the others only lost it, then the first failure.

    A rank that did not arrive where others waited is as good as killed: it is, once they have ended.
    """
    failure = first_failure(folder.failures)
    if failure is not None and failure.kind == "spec":
        return SpecError(failure.message)
    gone = {rank for rank, code in workers.lost.items() if code < 0} | set(failure.hung if failure is not None else ())
    return RanksGoneError(_lost(folder, workers, failure), gone, workers.lost.keys() - gone)


def _lost(folder: RunFolder, workers: Workers, failure: Failure | None) -> str:
    killed = [rank for rank, code in workers.lost.items() if code == -signal.SIGKILL]
    if killed and (failure is None or failure.rank not in killed):
        return f"rank {killed[0]} was killed (SIGKILL, perhaps for want of memory); start again to continue from the newest checkpoint"
    if failure is not None:
        return _said_of(failure, folder)
    if workers.unwritten:
        return f"{workers.unwritten[0].replace(FAILED, 'failed: ')}; make room, and start again"
    rank, code = next(iter(workers.lost.items()))
    said = _last_words(workers.logs)
    why = f"its stderr ends with '{said}'" if said else "it left no message"
    return f"rank {rank} ended with {_named(code)}, {why}; see {folder.logs}, and start again to continue from the newest checkpoint"


def _said_of(failure: Failure, folder: RunFolder) -> str:
    return f"rank {failure.rank} failed: {failure.message}; see {folder.failures} and {folder.logs}"


def _named(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _last_words(logs: Path) -> str:
    """Return the last line of a rank's stderr: the message of a library that ended the process."""
    texts = (log.read_text(errors="replace") for log in sorted(logs.glob("*/stderr.log")))
    lines = [text.strip().splitlines()[-1] for text in texts if text.strip()]
    return lines[0] if lines else ""


def while_heard(progress: Callable[[str], None]) -> Callable[[str], None]:
    """Return `progress`, which tells nothing more once a line could not be written: its reader is gone, or the disk is full.
    Training goes on."""
    heard = True

    def tell(line: str) -> None:
        nonlocal heard
        if not heard:
            return
        try:
            progress(line)
        except (OSError, ValueError):  # ValueError: the stream is closed
            heard = False

    return tell
