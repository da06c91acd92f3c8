"""torchrun as a child process: one worker for each rank, ended with this process, failures reported in one line."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO

from shardwright.base import RunFailedError, SpecError, ended_by_sigterm, first_failure, threads_per_rank
from shardwright.executor.training import LAUNCHER, RunFolder

_POLL_SECONDS = 0.1
_STOP_SECONDS = 20.0
FAILED = "failed without room to write why: "
"""What a rank says on its standard output where it cannot write its failure to the folder."""


def run_torchrun(folder: RunFolder, ranks: int, restarts: int, progress: Callable[[str], None]) -> None:
    """Run the prepared folder's workers to their end. When some are lost, all are started again, up to `restarts`
    times.

    Raises:
        SpecError, RunFailedError: a rank left a failure, or ended without one.
    """
    folder.logs.mkdir(parents=True, exist_ok=True)
    with (
        (folder.logs / "torchrun.log").open("wb") as log,
        _running(_command(folder, ranks, restarts), ranks, folder.launcher, log) as process,
    ):
        assert process.stdout is not None
        said: list[str] = []
        reader = threading.Thread(target=_forward, args=(process.stdout, progress, said), daemon=True)
        reader.start()
        while process.poll() is None:
            failure = first_failure(folder.failures)
            if failure is not None and failure.kind == "spec":  # a restart cannot correct it
                break
            time.sleep(_POLL_SECONDS)
        else:
            reader.join()
    if process.returncode != 0:
        _raise_failure(folder, said)


def _raise_failure(folder: RunFolder, told: list[str]) -> None:
    failure = first_failure(folder.failures)
    if failure is None and told:
        raise RunFailedError(f"{told[0].replace(FAILED, 'failed: ')}; make room, and start again")
    if failure is None:
        said = _last_words(folder)
        why = f"; its stderr ends with '{said}'" if said else ", killed perhaps for want of memory"
        raise RunFailedError(
            f"a rank ended without a message{why}; see {folder.logs}, and start again to continue from the newest checkpoint"
        )
    if failure.kind == "spec":
        raise SpecError(failure.message)
    raise RunFailedError(f"rank {failure.rank} failed: {failure.message}; see {folder.failures} and {folder.logs}")


def _last_words(folder: RunFolder) -> str:
    """Return the last line of a worker's stderr in the newest attempt: the
    message of a library that ended the process."""
    attempts = sorted(folder.logs.glob("*/attempt_*"), key=lambda path: path.stat().st_mtime)
    if not attempts:
        return ""
    texts = (log.read_text(errors="replace") for log in sorted(attempts[-1].glob("*/stderr.log")))
    lines = [text.strip().splitlines()[-1] for text in texts if text.strip()]
    return lines[0] if lines else ""


def _command(folder: RunFolder, ranks: int, restarts: int) -> list[str]:
    """Return torchrun's command. Workers' stderr goes to files; the launcher
    tells the user the cause once, in one line."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    # a machine's name may not resolve, on a laptop or in a container
    address = ["--local-addr=127.0.0.1"]
    logs = [f"--max-restarts={restarts}", f"--log-dir={folder.logs}", "--redirects=2"]
    return [*torchrun, *address, *logs, "-m", "shardwright.executor.run.worker", str(folder.path)]


@contextlib.contextmanager
def _running(command: list[str], ranks: int, launcher: str, log: IO[bytes]) -> Iterator[subprocess.Popen[str]]:
    """Run the process within the block; it ends with the block, also by Ctrl-C or SIGTERM.

    With PYTHONSAFEPATH a folder `executor` or `profiler` in the user's working directory is not imported. In their own
    session, workers get Ctrl-C only from us.
    """
    environment = os.environ | {
        "PYTHONSAFEPATH": "1",
        "OMP_NUM_THREADS": str(threads_per_rank(ranks)),
        LAUNCHER: launcher,
    }
    with ended_by_sigterm():
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
        )
        try:
            yield process
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[str]) -> None:
    """Stop torchrun, which passes SIGTERM on to its workers. Workers that outlive it end by themselves."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _forward(lines: IO[str], progress: Callable[[str], None], failed: list[str]) -> None:
    """Pass on what the ranks say; what says why one failed goes into `failed`."""
    for line in lines:
        if FAILED in line:
            failed.append(line.rstrip("\n"))
        else:
            progress(line.rstrip("\n"))


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
