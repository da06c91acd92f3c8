"""The planner's choice beside the plans of published runs: python -m shardwright.calibration.published_plans.

For each row of the tables that states a whole plan, the planner's fastest plan for the same software must be predicted no
slower than the published one. Rows that are put away (tables.py) are left out. A published plan that
does not fit by the model, or that the space does not hold, is counted apart.
"""

import argparse
import statistics
from collections import Counter
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from shardwright.base import InfeasibleError, SpecError
from shardwright.catalog import standard_node
from shardwright.costmodel import check_memory, estimate_plan
from shardwright.planner import search
from shardwright.planner.space import Fixed, check_runs
from shardwright.specs import Plan
from shardwright.validation.rows import MeasuredRun, measured_run

from .tables import used_rows

_ROUNDING = 1e-6


class Compared(NamedTuple):
    """A published plan beside the planner's: predicted seconds, infinite where none fits, and why theirs is outside the space."""

    run: MeasuredRun
    theirs: float
    ours: float
    outside: str

    @property
    def ratio(self) -> float:
        return self.ours / self.theirs


def compared(run: MeasuredRun, chosen: dict[object, float]) -> Compared | None:
    """Compare one run; None where its plan does not fit by the model. `chosen`: the planner's seconds by job, to reuse."""
    job = (run.model, run.cluster, run.training)
    plan: Plan = run.readings[0].plan
    theirs = estimate_plan(*job, plan)
    try:
        check_memory(theirs, run.cluster)
    except InfeasibleError:
        return None
    key = (run.model, run.cluster.model_dump_json(), run.training)
    if key not in chosen:
        try:
            chosen[key] = search(*job, runners_up=0, time_limit_seconds=20).estimate.step_seconds
        except (SpecError, InfeasibleError):
            chosen[key] = float("inf")
    slower = chosen[key] > theirs.step_seconds * (1 + _ROUNDING)
    return Compared(run, theirs.step_seconds, chosen[key], _why_outside(run, plan) if slower else "")


def _why_outside(run: MeasuredRun, plan: Plan) -> str:
    """Why the space does not hold a plan."""
    try:
        unused = {"context_parallel": plan.mesh.cp, "expert_dispatch": plan.mesh.ep}
        kept = Fixed.of(plan).but(stages=None, **{name: None for name, degree in unused.items() if degree == 1})
        check_runs(run.training, kept)
        search(run.model, run.cluster, run.training, fixed=kept, runners_up=0)
    except (SpecError, InfeasibleError) as reason:
        return str(reason)
    return "the space holds it but for its stages"


def main(arguments: list[str] | None = None) -> None:
    """Print how often the planner's plan is no slower, and the others with their reasons."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="take each N-th row")
    chosen = parser.parse_args(arguments)
    known: dict[object, float] = {}
    found: list[Compared] = []
    counts: Counter[str] = Counter()
    for row in used_rows()[:: max(1, chosen.every)]:
        run = measured_run(row, standard_node)
        if not isinstance(run, MeasuredRun) or run.unknown:
            counts["not a whole plan"] += 1
            continue
        result = compared(run, known)
        counts["does not fit by the model" if result is None else "compared"] += 1
        found += [] if result is None else [result]
    console = Console(width=170)
    console.print(", ".join(f"{count} rows: {what}" for what, count in counts.most_common()))
    slower = [each for each in found if each.ratio > 1 + _ROUNDING]
    ratios = [each.ratio for each in found]
    if ratios:
        console.print(
            f"planner no slower on {len(found) - len(slower)} of {len(found)}; its step over theirs: median {statistics.median(ratios):.2f}, least {min(ratios):.2f}"
        )
    table = Table(
        "row", "stack", "theirs", "ours / theirs", "why", title="Published plans that are faster", title_justify="left"
    )
    for each in sorted(slower, key=lambda each: -each.ratio):
        plan = each.run.readings[0].plan
        table.add_row(
            each.run.id, each.run.training.stack, f"{plan.mesh}; {plan.schedule}", f"{each.ratio:.3f}", each.outside
        )
    console.print(table)


if __name__ == "__main__":
    main()
