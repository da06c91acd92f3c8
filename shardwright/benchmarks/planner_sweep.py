"""Whether the planner answers every job, and no worse than common recipes: python -m shardwright.benchmarks.planner_sweep.

Every preset on 8 to 4,096 devices of four kinds gets a plan or a reason. The plan must fit with its memory reserve, the
simulation must agree with its step, and no family recipe may be faster by the same model: FSDP, Megatron's, tensor and data
parallelism, expert and data parallelism. `--every 10` takes each tenth job.
"""

import argparse
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from rich.console import Console

from shardwright.base import InfeasibleError, SpecError
from shardwright.catalog import load_cluster
from shardwright.catalog.huggingface import load_model, preset_names
from shardwright.comparison import STRATEGIES, levels_of
from shardwright.costmodel import check_memory, estimate_plan, simulate_plan
from shardwright.planner import TOLERANCE, SearchResult, search
from shardwright.planner.space import Fixed
from shardwright.specs import ClusterSpec, TrainingSpec
from shardwright.specs.model import ModelSpec

COUNTS = (8, 24, 64, 96, 512, 4096)
DEVICES = ("h100-sxm", "a100-sxm-80gb", "gb200", "mi300x")
_SEQ_LEN = 4096
_AGREES = 0.01
_MOST_SIMULATED = 512  # microbatches times ranks


@dataclass
class Sweep:
    """What became of the jobs: counts by outcome, and a line for each fault."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")

    def run(self, preset: str, devices: str) -> None:
        name = f"{preset} on {devices}"
        started = time.perf_counter()
        try:
            model, cluster = load_model(preset), load_cluster(devices)
            length = min(_SEQ_LEN, model.positions or _SEQ_LEN)
            training = TrainingSpec(seq_len=length, global_batch=max(512, cluster.devices))
            result = search(model, cluster, training, tolerance=TOLERANCE, runners_up=0)
        except (SpecError, InfeasibleError) as reason:
            self.outcomes["nothing fits" if isinstance(reason, InfeasibleError) else "nothing divides"] += 1
        except Exception as crash:  # the sweep counts crashes
            self.outcomes["crash"] += 1
            self.faults.append(f"{name}: {crash!r}")
        else:
            self.outcomes["plan"] += 1
            self.faults += [f"{name}: {fault}" for fault in _faults(model, cluster, training, result)]
        self.slowest = max(self.slowest, (time.perf_counter() - started, name))


def _faults(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, result: SearchResult) -> Iterator[str]:
    """Yield what is wrong with an answer."""
    plan, estimate = result.plan, result.estimate
    try:
        check_memory(estimate, cluster)
    except InfeasibleError as lacking:
        yield f"does not fit: {lacking}"
    if plan.microbatches * plan.mesh.pp <= _MOST_SIMULATED:
        simulated = simulate_plan(model, cluster, training, plan).step_seconds
        if abs(simulated / estimate.step_seconds - 1) > _AGREES:
            yield f"simulated {simulated:.4g} s, estimated {estimate.step_seconds:.4g} s"
    most = (result.fastest.step_seconds if result.fastest else estimate.step_seconds) * (1 - 1e-6)
    for recipe, seconds in _recipes(model, cluster, training):
        if seconds < most:
            yield f"{recipe} takes {seconds:.4g} s, the plan {most:.4g} s"


def _recipes(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec) -> Iterator[tuple[str, float]]:
    """Yield the steps of the recipes' plans that fit."""
    for strategy in STRATEGIES:
        try:
            plans = [plan for level in levels_of(strategy, model, cluster, training) for plan in level]
        except SpecError:
            continue
        for plan in plans:
            try:
                estimate = estimate_plan(model, cluster, training, plan)
                check_memory(estimate, cluster)
            except (SpecError, InfeasibleError):
                continue
            yield strategy, estimate.step_seconds
    try:
        alone = search(model, cluster, training, fixed=Fixed(pp=1, tp=1, cp=1), runners_up=0)
    except (SpecError, InfeasibleError):
        return
    yield "ep+dp", alone.estimate.step_seconds


def main(arguments: list[str] | None = None) -> None:
    """Print the counts and the faults."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="take each N-th job")
    parser.add_argument("--first", type=int, default=0, help="begin with job N")
    chosen = parser.parse_args(arguments)
    jobs = [(preset, f"{device}:{count}") for preset in preset_names() for device in DEVICES for count in COUNTS]
    sweep, console = Sweep(), Console(width=170)
    for preset, devices in jobs[chosen.first :: max(1, chosen.every)]:
        sweep.run(preset, devices)
    total = sum(sweep.outcomes.values())
    shown = ", ".join(f"{count} {outcome}" for outcome, count in sweep.outcomes.most_common())
    console.print(f"{total} of {len(jobs)} jobs: {shown}; {len(sweep.faults)} faults")
    console.print(f"slowest: {sweep.slowest[1]}, {sweep.slowest[0]:.1f} s with its recipes")
    for fault in sweep.faults:
        console.print(f"fault: {fault}")


if __name__ == "__main__":
    main()
