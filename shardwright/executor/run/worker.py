"""The program of each rank: `python -m shardwright.executor.run.worker FOLDER`, started by the launcher.

What loads torch is imported late, so that a rank ends with its launcher and hears signals from its first second.
"""

import os
import sys
import traceback
from pathlib import Path

from shardwright.base import (
    STOPPED,
    RunStoppedError,
    SpecError,
    StopRequest,
    end_with_parent,
    first_line,
    record_failure,
)

FAILED = "failed without room to write why: "
"""What a rank says on its standard output where it cannot write its failure to the folder."""


def main(arguments: list[str], stop: StopRequest) -> int:
    """Run one rank of the run in the given folder; return its exit code. A failure
    is written to the folder for the launcher."""
    from shardwright.executor.training import RunFolder

    from .rank import run_rank

    folder = RunFolder(Path(arguments[0]))
    end_with_parent(folder.launcher_lives)
    try:
        run_rank(folder.read_phases(), folder.read_options(), folder, lambda line: print(line, flush=True), stop)
    except RunStoppedError:
        return STOPPED
    except Exception as error:
        try:
            record_failure(folder.failures, int(os.environ["RANK"]), error)
        except SpecError:  # on a full disk only the launcher's pipe is left
            print(f"rank {os.environ['RANK']} {FAILED}{first_line(error)}", flush=True)
        traceback.print_exc()
        return 2 if isinstance(error, SpecError) else 1
    return 0


if __name__ == "__main__":
    end_with_parent()
    code = main(sys.argv[1:], StopRequest().listen())
    sys.stdout.flush()
    sys.stderr.flush()
    # gloo's remaining threads abort ("terminate called") an interpreter that shuts down normally
    os._exit(code)
