"""How fast the planner and the simulation are: python -m shardwright.benchmarks.speed.

It prints the median, the fastest and the slowest of several runs. Commands run as whole processes, as from a shell.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from shardwright.base import units as readable
from shardwright.catalog import load_cluster
from shardwright.catalog.huggingface import load_model
from shardwright.costmodel.pipeline import StageCosts, make_schedule, simulate
from shardwright.planner import search
from shardwright.specs import TrainingSpec

JOB = ("llama-3.1-70b", "--cluster", "h100-sxm:64", "--seq-len", "8192", "--global-batch", "512")
_RUNS = 7


def timed(work: Callable[[], object]) -> list[float]:
    """Seconds of each of several runs, after one warm-up run."""
    work()
    seconds = []
    for _ in range(_RUNS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return seconds


def _command(*arguments: str) -> Callable[[], object]:
    return lambda: subprocess.run(
        [sys.executable, "-m", "shardwright", *arguments], check=True, stdout=subprocess.DEVNULL
    )


def _search() -> object:
    model, cluster = load_model(JOB[0]), load_cluster(JOB[2])
    return search(model, cluster, TrainingSpec(seq_len=8192, global_batch=512))


def _simulate() -> object:
    schedule = make_schedule("interleaved-1f1b", 16, 4, 128)
    costs = StageCosts(pp=16, forward=[1.0] * 64, backward=[2.0] * 64, send=0.1)
    return simulate(schedule, costs)


def main() -> None:
    """Print the tables."""
    work = {
        "shardwright --help": _command("--help"),
        f"shardwright plan {' '.join(JOB)}": _command("plan", *JOB),
        "the same with --details": _command("plan", *JOB, "--details"),
        "the search of that plan, in a warm process": _search,
        "simulation of interleaved 1F1B, pp 16, 128 microbatches, 4 chunks": _simulate,
    }
    table = Table("what", title=f"Median of {_RUNS} runs", title_justify="left")
    for column in ("median", "fastest", "slowest"):
        table.add_column(column, justify="right")
    for what, run in work.items():
        seconds = timed(run)
        table.add_row(what, *(readable.seconds(f(seconds)) for f in (statistics.median, min, max)))
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
