"""Dry runs of four large jobs, beside what they are charged: python -m shardwright.benchmarks.dry_runs [NAME ...].

It prints the seconds of each dry run, on the clock and of the core that it needs, how far its FLOPs are from the charged ones, and the bytes by axis: of the rank that
differs most, over all kinds of ranks.
"""

import sys
import time
from collections.abc import Mapping
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from shardwright.base import SpecError, listed
from shardwright.base import units as readable
from shardwright.catalog import load_cluster
from shardwright.catalog.huggingface import load_model
from shardwright.costmodel import PlanFile
from shardwright.executor.dry import dry_run
from shardwright.specs import DryRun, LayerRun, Mesh, Plan, Stage, TrainingSpec


class Job(NamedTuple):
    """A model with a plan; `stages` are the layers of each."""

    model: str
    cluster: str
    seq_len: int
    mesh: Mesh
    microbatches: int
    stages: tuple[LayerRun, ...]


JOBS: Mapping[str, Job] = {
    "llama-70b": Job(
        "llama-3.1-70b",
        "h100-sxm:1024",
        8192,
        Mesh(pp=8, dp_shard=16, tp=8),
        32,
        (LayerRun(count=10, zero_stage=1, recompute="full"), *(LayerRun(count=10, zero_stage=1) for _ in range(7))),
    ),
    "mixtral-8x22b": Job(
        "mixtral-8x22b",
        "h100-sxm:256",
        8192,
        Mesh(pp=8, dp_shard=8, tp=4, ep=8),
        16,
        tuple(LayerRun(count=7, zero_stage=1) for _ in range(8)),
    ),
    "deepseek-v3": Job(
        "deepseek-v3",
        "h100-sxm:1024",
        4096,
        Mesh(pp=16, dp_shard=32, tp=2, ep=32),
        16,
        tuple(LayerRun(count=count, zero_stage=1, recompute="full") for count in (3, *[4] * 14, 2)),
    ),
    "llama-8b-1m": Job(
        "llama-3.1-8b",
        "h200-sxm:64",
        2**20,
        Mesh(cp=16, dp_shard=1, tp=4),
        4,
        (LayerRun(count=32, zero_stage=3, recompute="full"),),
    ),
}


def plan_file(job: Job) -> PlanFile:
    """Return the plan file of a job, of one sequence a microbatch."""
    model = load_model(job.model)
    plan = Plan(
        mesh=job.mesh,
        micro_batch=1,
        microbatches=job.microbatches,
        schedule="1f1b",
        stages=tuple(Stage(layers=(run,)) for run in job.stages),
        sequence_parallel=job.mesh.tp > 1,
    )
    return PlanFile(
        model_name=model.name,
        model_config_json=model.config,
        cluster=load_cluster(job.cluster),
        training=TrainingSpec(seq_len=job.seq_len, global_batch=plan.global_batch),
        plan=plan,
    )


def lines(found: DryRun) -> list[tuple[str, ...]]:
    """Return a row for each axis: what is traced and charged on the rank where they differ most, and the difference."""
    rows: list[tuple[str, ...]] = []
    for axis in found.axes:
        worst = max((rank.bytes_of(axis) for rank in found.ranks), key=lambda size: (abs(size.difference), size.traced))
        shown = f"{worst.difference:+,.0f} B" if worst.difference else "equal"
        rows.append((f"bytes over {axis}", readable.size(worst.traced), readable.size(worst.charged), shown))
    flops = max((rank.flops for rank in found.ranks), key=lambda flops: abs(flops.relative_difference))
    rows.append(("FLOPs", f"{flops.traced:.4g}", f"{flops.charged:.4g}", f"{flops.relative_difference:+.3%}"))
    return rows


def main(names: list[str]) -> None:
    """Print a table for each job."""
    for name in names or list(JOBS):
        if name not in JOBS:
            raise SpecError(f"no job '{name}'; give one of {listed(JOBS)}")
        given = plan_file(JOBS[name])
        start, busy_start = time.perf_counter(), time.process_time()
        found = dry_run(given)
        seconds, busy_seconds = time.perf_counter() - start, time.process_time() - busy_start
        title = f"{JOBS[name].model}, {JOBS[name].seq_len:,} tokens, {given.plan.mesh}: ranks {listed(rank.rank for rank in found.ranks)} in {seconds:.1f} s, {busy_seconds:.1f} s of one core"
        table = Table("a step of one rank", title_justify="left")
        for column in ("traced", "charged", "difference"):
            table.add_column(column, justify="right")
        for row in lines(found):
            table.add_row(*row)
        Console(width=130).print(title, table, sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
