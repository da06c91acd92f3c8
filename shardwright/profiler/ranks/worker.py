"""One rank that `run_local_ranks` starts: `python -m shardwright.profiler.ranks.worker JOB FOLDER RANK RANKS [HOST]`.

Rank 0 prints told lines on its standard output and writes its result to `FOLDER/result`.
"""

import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shardwright.base import record_failure, write_whole

from .launch import Launch
from .torch_ranks import TorchRanks, joined_ranks

Job = Callable[[TorchRanks, str, Callable[[str], None]], str]


def main(arguments: list[str]) -> int:
    job, folder, (rank, size) = arguments[0], Path(arguments[1]), map(int, arguments[2:4])
    host = arguments[4] if len(arguments) > 4 else None
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a background shell set it to be ignored
    threading.Thread(target=_end_with_parent, daemon=True).start()
    launch = Launch(by="here", rank=rank, size=size, local_rank=rank, file=folder / "store")
    try:
        with joined_ranks(launch, host=host) as ranks:
            result = _job(job)(ranks, (folder / "argument").read_text(encoding="utf-8"), _tell)
            if rank == 0:
                write_whole(folder / "result", result)
    except BaseException as error:
        record_failure(folder, rank, error)
        return 1
    return 0


def _job(name: str) -> Job:
    module, _, function = name.partition(":")
    found: Any = getattr(importlib.import_module(module), function)
    return found  # type: ignore[no-any-return]  # what a name leads to is only known when it runs


def _tell(line: str) -> None:
    print(line, flush=True)


def _end_with_parent() -> None:
    """End with the parent process. Nothing is written to our input, so it ends exactly when that process ends."""
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # without destroying groups, which would wait for peers of a failed rank
