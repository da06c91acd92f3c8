"""Several ranks on this machine, started by this process: all end with it, and one that fails ends the others."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from shardwright.base import RanksLostError, SpecError, ended_by_sigterm, first_failure, usable_cores

_POLL_SECONDS = 0.05
_FINISH_SECONDS = 60.0
_FOLLOW_SECONDS = 1.0


def run_local_ranks(
    ranks: int,
    job: str,
    argument: str,
    *,
    tell: Callable[[str], None] = print,
    hosts: Sequence[str] | None = None,
) -> str:
    """Call the function `job` ("package.module:function") on `ranks` processes of this machine; return rank 0's result.

    The call is `function(ranks, argument, tell) -> str`, with `ranks` the `TorchRanks` of the launch. Lines that rank 0
    tells are passed to `tell`; the other ranks are silent. `hosts`: names of machines that the ranks report instead of
    this one's. On Ctrl-C or SIGTERM only rank 0 is interrupted, so that it can finish and return a result.

    Raises:
        SpecError: a rank raised one.
        RanksLostError: a rank failed in another way, or was killed; one line says which and why.
    """
    with tempfile.TemporaryDirectory(prefix="shardwright-") as name, ended_by_sigterm():
        folder = Path(name)
        (folder / "argument").write_text(argument, encoding="utf-8")
        workers: list[subprocess.Popen[str]] = []
        try:
            for rank in range(ranks):
                host = hosts[rank] if hosts else None
                workers.append(_started(rank, ranks, job, folder, host))
            threading.Thread(target=_forward, args=(workers[0].stdout, tell), daemon=True).start()
            _await_interruptibly(workers, folder)
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
        return (folder / "result").read_text(encoding="utf-8")


def _started(rank: int, ranks: int, job: str, folder: Path, host: str | None) -> subprocess.Popen[str]:
    """Start a rank in its own session, so that it gets Ctrl-C only from us. The
    end of its input tells it that we ended."""
    environment = os.environ | {"PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": str(max(1, usable_cores() // ranks))}
    if sys.platform == "linux":
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")  # works also where the host name does not resolve
    # -P: a folder named `profiler` in the user's working directory must not be imported instead of ours
    module = [sys.executable, "-P", "-m", "shardwright.profiler.ranks.worker"]
    with (folder / f"rank-{rank}.log").open("wb") as log:
        return subprocess.Popen(
            [*module, job, str(folder), str(rank), str(ranks), *([host] if host else [])],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if rank == 0 else log,
            stderr=log,
            text=True,
            start_new_session=True,
        )


def _await_interruptibly(workers: list[subprocess.Popen[str]], folder: Path) -> None:
    try:
        _await(workers, folder)
    except (KeyboardInterrupt, SystemExit):
        workers[0].send_signal(signal.SIGINT)
        deadline, result = time.monotonic() + _FINISH_SECONDS, folder / "result"
        while not result.exists() and workers[0].poll() is None and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        if not result.exists():
            raise


def _await(workers: list[subprocess.Popen[str]], folder: Path) -> None:
    while any(worker.poll() is None for worker in workers):
        if any(worker.poll() for worker in workers):
            break
        time.sleep(_POLL_SECONDS)
    if not any(worker.poll() for worker in workers):
        return
    deadline = time.monotonic() + _FOLLOW_SECONDS
    while time.monotonic() < deadline and any(worker.poll() is None for worker in workers):
        time.sleep(_POLL_SECONDS)  # give the rank that failed first time to report
    _raise_failure(workers, folder)


def _raise_failure(workers: list[subprocess.Popen[str]], folder: Path) -> None:
    killed = [rank for rank, worker in enumerate(workers) if (worker.poll() or 0) < 0]
    failure = first_failure(folder)
    if failure is not None and failure.kind == "spec":
        raise SpecError(failure.message)
    if killed and (failure is None or failure.kind == "lost"):
        name = signal.Signals(-workers[killed[0]].returncode).name
        raise RanksLostError(f"rank {killed[0]} was killed ({name}), perhaps for want of memory")
    if failure is not None:
        told = failure.message.startswith("rank ")
        raise RanksLostError(failure.message if told else f"rank {failure.rank} failed: {failure.message}")
    rank = next(rank for rank, worker in enumerate(workers) if worker.poll())
    words = (folder / f"rank-{rank}.log").read_text(errors="replace").strip().splitlines() or ["no message"]
    raise RanksLostError(f"rank {rank} ended with {workers[rank].returncode}: {words[-1]}")


def _forward(lines: IO[str] | None, tell: Callable[[str], None]) -> None:
    for line in lines or ():
        tell(line.rstrip("\n"))
