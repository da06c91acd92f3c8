"""The program of each rank: `python -m shardwright.executor.run.worker FOLDER`, started by torchrun."""

import os
import sys
import threading
import time
import traceback
from pathlib import Path

from shardwright.base import SpecError, first_line, record_failure
from shardwright.executor.training import RunFolder

from .rank import run_rank
from .torchrun import FAILED

_WATCH_SECONDS = 0.5


def main(arguments: list[str]) -> int:
    """Run one rank of the run in the given folder; return its exit code. A failure
    is written to the folder for the launcher."""
    folder = RunFolder(Path(arguments[0]))
    _end_with_launcher(folder)
    try:
        run_rank(folder.read_plan(), folder.read_options(), folder, lambda line: print(line, flush=True))
    except Exception as error:
        try:
            record_failure(folder.failures, int(os.environ["RANK"]), error)
        except SpecError:  # on a full disk only the launcher's pipe is left
            print(f"rank {os.environ['RANK']} {FAILED}{first_line(error)}", flush=True)
        traceback.print_exc()
        return 2 if isinstance(error, SpecError) else 1
    return 0


def _end_with_launcher(folder: RunFolder) -> None:
    """End this process when its parent or the launcher is gone. Both may be killed without a chance to tell us."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent and folder.launcher_lives():
            time.sleep(_WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # gloo's remaining threads abort ("terminate called") an interpreter that shuts down normally
    os._exit(code)
