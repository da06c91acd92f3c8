"""`python -m shardwright.calibration.plan_pairs`: how well the difference between two plans for the same job is predicted.

What two plans have in common, such as the device and the model, is wrong for both alike. So their difference says more than either
interval. Rows that are put away (tables.py) are left out. `error` is |ln(predicted ratio / measured ratio)| of two plans' steps; `order
right` is the share of pairs whose faster plan is predicted to be faster. The planner's tolerances rest on this table.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Hashable, Iterable
from itertools import combinations, pairwise
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from shardwright.specs import Plan
from shardwright.validation.scores import TimedRun, predict_rows

from .tables import used_rows

_BINS = (0.0, 0.02, 0.04, 0.08, math.inf)


class Run(NamedTuple):
    """A run of a job: same model, devices, training spec and software."""

    job: Hashable
    plan: Plan
    measured_seconds: float
    predicted_seconds: float


class Pair(NamedTuple):
    """Two plans of a job: ln of the ratio of their steps, measured and predicted."""

    job: Hashable
    same_mesh: bool
    measured: float
    predicted: float

    @property
    def error(self) -> float:
        return abs(self.predicted - self.measured)

    @property
    def order_is_right(self) -> bool:
        return self.predicted * self.measured > 0


def pairs_of(runs: Iterable[Run]) -> list[Pair]:
    """Return every two plans of each job whose measured steps differ; repeated runs of a plan count as their median."""
    by_job: dict[Hashable, dict[Plan, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        by_job[run.job][run.plan].append(run)
    found = []
    for job, by_plan in by_job.items():
        medians = [
            (
                plan,
                statistics.median(run.measured_seconds for run in same),
                statistics.median(run.predicted_seconds for run in same),
            )
            for plan, same in by_plan.items()
        ]
        for (one, measured, predicted), (other, its_measured, its_predicted) in combinations(medians, 2):
            if measured != its_measured:
                ratios = math.log(measured / its_measured), math.log(predicted / its_predicted)
                found.append(Pair(job, one.mesh == other.mesh, *ratios))
    return found


def pairs_table(pairs: list[Pair]) -> Table:
    """The errors of pairs with the same mesh, and of the others by the size of the predicted difference."""
    table = Table("pairs", title="Differences between plans for the same job", title_justify="left")
    for column in ("count", "jobs", "median error", "80% within", "order right"):
        table.add_column(column, justify="right")
    others = [pair for pair in pairs if not pair.same_mesh]
    named = {"same mesh": [pair for pair in pairs if pair.same_mesh], "other mesh": others}
    for low, high in pairwise(_BINS):
        name = f"other mesh, predicted {low:.0%}" + (f" to {high:.0%}" if math.isfinite(high) else " and more")
        named[name] = [pair for pair in others if low <= abs(pair.predicted) < high]
    for name, some in named.items():
        if some:
            errors = sorted(pair.error for pair in some)
            shares = statistics.median(errors), errors[math.ceil(0.8 * len(errors)) - 1]
            right = sum(pair.order_is_right for pair in some) / len(some)
            jobs = str(len({pair.job for pair in some}))
            table.add_row(name, str(len(some)), jobs, *(f"{share:.1%}" for share in shares), f"{right:.0%}")
    return table


def _run_of(timed: TimedRun) -> Run:
    job = timed.run.job, timed.run.training.model_dump_json()
    return Run(job, timed.prediction.plan, timed.measured.seconds, timed.predicted_seconds)


def main() -> None:
    """Predict the used rows and print the table."""
    outcomes = predict_rows(used_rows())
    timed = (outcome.timed for outcome in outcomes)
    Console(width=120).print(pairs_table(pairs_of(_run_of(one) for one in timed if one is not None)))


if __name__ == "__main__":
    main()
