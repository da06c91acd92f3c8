"""How fast the planner answers for jobs of all sizes, and how far its answers may be from the optimum:
python -m shardwright.benchmarks.planner [JOB ...]. With `curve` instead of jobs: seconds for GPT-3 175B on 64 to 16,384 devices.

Each search runs in this process after one warm-up run. `processor`: seconds of processor time, for a machine that others use, too. `unproven`: the share by which a plan of the space may be faster than
the fastest that was found. `gap`: the same for the plan that was chosen, which may be simpler and 2% slower.
"""

import math
import statistics
import sys
import time
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from shardwright.base import nearest
from shardwright.base import units as readable
from shardwright.catalog import load_cluster
from shardwright.catalog.huggingface import load_model
from shardwright.planner import TOLERANCE, SearchResult, search
from shardwright.planner.space import asked
from shardwright.specs import TrainingSpec

_RUNS = 5
CURVE = (64, 256, 1024, 4096, 16384)


class Job(NamedTuple):
    """A job of the benchmark and the seconds in which it should be answered. `offload`: any share may leave the device."""

    model: str
    cluster: str
    seq_len: int
    global_batch: int
    aim_seconds: float
    offload: bool = False

    def search(self) -> SearchResult:
        training = TrainingSpec(seq_len=self.seq_len, global_batch=self.global_batch)
        fixed = asked({"offload": self.offload})
        job = (load_model(self.model), load_cluster(self.cluster), training)
        return search(*job, fixed=fixed, runners_up=0, tolerance=TOLERANCE)


JOBS = {
    "llama2-7b-8": Job("llama-2-7b", "a100-sxm-80gb:8", 4096, 256, 0.1),
    "llama3-8b-16": Job("llama-3.1-8b", "h100-sxm:16", 8192, 128, 0.1),
    "llama3-8b-1m": Job("llama-3.1-8b", "h100-sxm:64", 1048576, 64, 1.0),
    "gpt3-64": Job("gpt3-175b", "a100-sxm-80gb:64", 2048, 1536, 0.5),
    "gpt3-512": Job("gpt3-175b", "a100-sxm-80gb:512", 2048, 1536, 0.5),
    "gpt3-4096": Job("gpt3-175b", "a100-sxm-80gb:4096", 2048, 1536, 0.5),
    "llama3-405b-16384": Job("llama-3.1-405b", "h100-sxm:16384", 8192, 2048, 1.0),
    "mixtral-8x22b-128": Job("mixtral-8x22b", "h100-sxm:128", 8192, 1024, 2.0),
    "qwen3-235b-256": Job("qwen3-235b-a22b", "h100-sxm:256", 4096, 4096, 2.0),
    "llama3-70b-8-offload": Job("llama-3.1-70b", "h100-sxm:8", 4096, 64, 1.0, offload=True),
    "gpt3-13b-1-offload": Job("gpt3-13b", "a100-sxm-40gb:1", 2048, 16, 1.0, offload=True),
    "llama3-8b-1-offload": Job("llama-3.1-8b", "rtx-4090:1", 4096, 16, 1.0, offload=True),
    "deepseek-v3-2048": Job("deepseek-v3", "h800-sxm:2048", 4096, 15360, 2.0),
}


def print_curve() -> None:
    """Print seconds by devices, and by what power of their number they grow between neighbours."""
    before: tuple[int, float] | None = None
    for devices in CURVE:
        job = JOBS["gpt3-64"]._replace(cluster=f"a100-sxm-80gb:{devices}")
        result = job.search()
        seconds = statistics.median(_seconds_of(job)[0] for _ in range(_RUNS))
        grown = "" if before is None else f", power {math.log(seconds / before[1]) / math.log(devices / before[0]):.2f}"
        print(f"{devices:6d} devices: {seconds:.2f} s, {result.candidates_total} entries{grown}")
        before = devices, seconds


def _seconds_of(job: Job) -> tuple[float, float]:
    """Return seconds of the clock and of this process's processors."""
    clock, processor = time.perf_counter(), time.process_time()
    job.search()
    return time.perf_counter() - clock, time.process_time() - processor


def main() -> None:
    """Print the table."""
    if sys.argv[1:] == ["curve"]:
        print_curve()
        return
    chosen = sys.argv[1:] or list(JOBS)
    for name in chosen:
        if name not in JOBS:
            raise SystemExit(
                f"job '{name}' is not known; allowed: curve, {', '.join(JOBS)}.{nearest(name, (*JOBS, 'curve'))}"
            )
    table = Table("job", title=f"Median of {_RUNS} searches", title_justify="left")
    for column in ("entries", "solved", "seconds", "processor", "aim", "step", "unproven", "gap", "memory"):
        table.add_column(column, justify="right")
    table.add_column("plan")
    for name in chosen:
        job = JOBS[name]
        result = job.search()
        clock, processor = zip(*(_seconds_of(job) for _ in range(_RUNS)), strict=True)
        plan, estimate = result.plan, result.estimate
        table.add_row(
            name,
            str(result.candidates_total),
            str(result.candidates_solved),
            readable.seconds(statistics.median(clock)),
            readable.seconds(statistics.median(processor)),
            readable.seconds(job.aim_seconds),
            readable.seconds(estimate.step_seconds),
            f"{result.unproven:.2%}",
            f"{result.gap:.1%}",
            readable.size(estimate.peak_memory_bytes),
            f"{plan.mesh}; {plan.schedule} x{plan.stages_per_rank}; micro batch {plan.micro_batch}",
        )
    Console(width=170).print(table)


if __name__ == "__main__":
    main()
