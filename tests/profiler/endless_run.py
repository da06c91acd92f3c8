"""A small real measuring run in a process of its own, for tests that end it: `python -m tests.profiler.endless_run OUT SECONDS`."""

import sys
from pathlib import Path

import torch

from shardwright.profiler.session.measure import Hooks, ProfileRequest, measure_profile
from shardwright.profiler.session.progress import Progress
from shardwright.profiler.session.stopped import StoppedError
from shardwright.profiler.timing.machines import CpuMachine
from shardwright.profiler.timing.probe import Machine, Sizes, Work
from shardwright.specs.profile import Format


class MatmulOfRows:
    """x @ w for ever more rows."""

    operation = "matmul"
    variant = "forward"
    format: Format | None = "fp32"
    axes = ("m", "k", "n")

    def __init__(self, count: int) -> None:
        self._count = count

    def first_sizes(self) -> list[Sizes]:
        return [(float(rows), 64.0, 64.0) for rows in range(8, 8 + self._count)]

    def needed_bytes(self, at: Sizes) -> float:
        return 4 * sum(at) * 64

    def between(self, one: Sizes, other: Sizes) -> Sizes | None:
        return None

    def prepare(self, at: Sizes, machine: Machine) -> Work:
        m, k, n = (int(size) for size in at)
        left, right = torch.ones(m, k), torch.ones(k, n)
        return lambda: left @ right


def show(progress: Progress) -> None:
    print(progress.done, flush=True)


def main(out: Path, budget_seconds: float, count: int) -> int:
    torch.set_num_threads(1)
    request = ProfileRequest(out, budget_seconds)
    hooks = Hooks(show=show, expected_error=lambda series: [])
    machine = CpuMachine()
    machine._flushed = torch.zeros(1024)  # writing over a server's last cache takes longer than all else here
    try:
        profile = measure_profile(request, machine, [MatmulOfRows(count)], hooks=hooks)
    except StoppedError as stopped:
        print(stopped, file=sys.stderr)
        return 128 + (stopped.signal_number or 0)
    print("points", profile.points)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))
