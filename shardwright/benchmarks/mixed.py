"""How fast the planner answers for mixed clusters, and what they gain over each group alone:
python -m shardwright.benchmarks.mixed [JOB ...].

Each search runs in this process after one warm-up run. `pipeline` and `replicas`: the fastest step where only these reach over groups,
or slower than on nodes of one kind; `alone`: the fastest step on one group.
"""

import statistics
import sys
import time
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from shardwright.base import InfeasibleError, SpecError, nearest
from shardwright.base import units as readable
from shardwright.catalog import devices, load_cluster
from shardwright.catalog.huggingface import load_model
from shardwright.planner import search
from shardwright.planner.mixed import ACROSS, Across, MixedResult, search_mixed
from shardwright.specs import ClusterSpec, Plan, TrainingSpec

_RUNS = 3
_AIM_SECONDS = 2.0


class MixedJob(NamedTuple):
    """A model on groups in the short form, and the catalog's link between them, if they have one of their own."""

    model: str
    groups: str
    between: str | None
    seq_len: int
    global_batch: int

    def cluster(self) -> ClusterSpec:
        groups = tuple(group for part in self.groups.split("+") for group in load_cluster(part).groups)
        link = devices.link(self.between) if self.between else None
        return ClusterSpec(name=self.groups, groups=groups, between=link)

    def training(self) -> TrainingSpec:
        return TrainingSpec(seq_len=self.seq_len, global_batch=self.global_batch)

    def search(self, across: tuple[Across, ...] = ACROSS) -> MixedResult:
        return search_mixed(load_model(self.model), self.cluster(), self.training(), across=across, runners_up=0)

    def over_groups(self, way: Across) -> str:
        """The fastest step where `way` alone reaches over groups, or that a plan on nodes of one kind is faster."""
        found = self.search((way,))
        return readable.seconds(found.result.estimate.step_seconds) if found.cluster.is_mixed else "slower"

    def alone_seconds(self) -> float | None:
        """The fastest step on one group alone; None where no plan fits one."""
        found, cluster = [], self.cluster()
        for index in range(len(cluster.groups)):
            try:
                result = search(load_model(self.model), cluster.alone(index), self.training(), runners_up=0)
            except (InfeasibleError, SpecError):
                continue
            found.append(result.estimate.step_seconds)
        return min(found, default=None)


JOBS = {
    "h100-a100": MixedJob("llama-3.1-70b", "h100-sxm:64+a100-sxm-80gb:64", None, 4096, 512),
    "h100-a100-8b": MixedJob("llama-3.1-8b", "h100-sxm:64+a100-sxm-80gb:64", None, 4096, 512),
    "islands": MixedJob("llama-3.1-70b", "h100-sxm:32+h100-sxm:32", "ethernet-100g", 4096, 512),
    "islands-8b": MixedJob("llama-3.1-8b", "h100-sxm:32+h100-sxm:32", "ethernet-100g", 4096, 512),
    "box": MixedJob("llama-3.2-1b", "rtx-4090:1+rtx-3090:1", "pcie-4-x16-no-peer", 2048, 32),
}


def main() -> None:
    """Print the table."""
    chosen = sys.argv[1:] or list(JOBS)
    for name in chosen:
        if name not in JOBS:
            raise SystemExit(f"job '{name}' is not known; allowed: {', '.join(JOBS)}.{nearest(name, JOBS)}")
    table = Table("job", title=f"Median of {_RUNS} searches", title_justify="left")
    for column in ("entries", "solved", "seconds", "aim", "step", "pipeline", "replicas", "alone", "gap"):
        table.add_column(column, justify="right")
    table.add_column("plan")
    for name in chosen:
        job = JOBS[name]
        found = job.search()
        seconds = statistics.median(_seconds_of(job) for _ in range(_RUNS))
        result, alone = found.result, job.alone_seconds()
        table.add_row(
            name,
            str(result.candidates_total),
            str(result.candidates_solved),
            readable.seconds(seconds),
            readable.seconds(_AIM_SECONDS),
            readable.seconds(result.estimate.step_seconds),
            *map(job.over_groups, ACROSS),
            "-" if alone is None else readable.seconds(alone),
            f"{result.gap:.2%}",
            f"{result.plan.mesh} on {found.cluster.name}; {_parts(result.plan)}",
        )
    Console(width=170).print(table)


def _parts(plan: Plan) -> str:
    """The layers of each stage, or the sequences of each group's replicas."""
    if not plan.replicas:
        return f"layers {[stage.layer_count for stage in plan.stages]}"
    return f"sequences {[one.global_batch for one in plan.by_group]}"


def _seconds_of(job: MixedJob) -> float:
    start = time.perf_counter()
    job.search()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
