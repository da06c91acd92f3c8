"""Memory of an idle process: `python -m shardwright.profiler.probes.movement.fresh_process [GPU]`.

It loads the libraries of a training run, reports its memory in one line of JSON, and stays until its input ends. The
process that started it can meanwhile measure how much less of the GPU is free. On a CPU it then allocates and frees
memory as training does.
"""

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import psutil
import torch

from shardwright.profiler.machine import resident_bytes
from shardwright.profiler.timing import UnavailableError

from .activation_churn import ChurnSizes, churn

_PATIENCE_SECONDS = 120.0
_CPU_CHURN = ChurnSizes(tokens=512, hidden=1024, dtype=torch.float32)


@dataclass(frozen=True)
class FreshProcess:
    """`resident_bytes`: its host memory. `reserved_bytes`: GPU memory that torch's allocator reserved for a first
    matmul.

    `churned_bytes`, `live_bytes`: only of a CPU. The first is the largest growth of its resident memory while it
    allocated and freed tensors. The second is the most bytes of these alive at once.
    """

    resident_bytes: float
    reserved_bytes: float = 0.0
    churned_bytes: float = 0.0
    live_bytes: float = 0.0


def ask_fresh_process(
    gpu: int | None,
    look: Callable[[], float],
    *,
    command: Sequence[str] | None = None,
    patience_seconds: float = _PATIENCE_SECONDS,
) -> tuple[FreshProcess, float]:
    """Start such a process, for GPU number `gpu` if any, and call `look` while it runs.

    Returns the report of the process and the result of `look`.

    Raises:
        UnavailableError: it did not start, or reported nothing within `patience_seconds`.
    """
    # -P: a folder named `profiler` in the user's working directory must not be imported instead of ours
    start = command or (sys.executable, "-P", "-m", "shardwright.profiler.probes.movement.fresh_process")
    arguments = [*start, *([] if gpu is None else [str(gpu)])]
    pipe = subprocess.PIPE
    with (
        tempfile.TemporaryFile("w+") as words,
        subprocess.Popen(arguments, stdin=pipe, stdout=pipe, stderr=words, text=True) as process,
    ):
        impatience = threading.Timer(patience_seconds, process.kill)
        impatience.start()
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            seen = look() if line else 0.0
        finally:
            impatience.cancel()
            process.kill()
        if not line:
            words.seek(0)
            last = (words.read().strip().splitlines() or ["no message"])[-1]
            raise UnavailableError(f"a fresh process ended before it reported its memory: {last}")
    return FreshProcess(**json.loads(line)), seen


def _measure(gpu: int | None) -> FreshProcess:
    resident = resident_bytes()
    if gpu is not None:
        with torch.cuda.device(gpu):
            x = torch.ones(64, 64, device="cuda")
            torch.mm(x, x)
            torch.cuda.synchronize()
            return FreshProcess(resident, reserved_bytes=float(torch.cuda.memory_reserved()))
    process, peak = psutil.Process(), resident

    def look() -> None:
        nonlocal peak
        peak = max(peak, float(process.memory_info().rss))

    live = churn(_CPU_CHURN, torch.device("cpu"), look)
    return FreshProcess(resident, churned_bytes=peak - resident, live_bytes=live)


def main(arguments: list[str]) -> None:
    told = _measure(int(arguments[0]) if arguments else None)
    print(json.dumps(asdict(told)), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1:])
