"""Several ways to train the same model on the same cluster, side by side."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from shardwright.base.errors import InfeasibleError, SpecError, nearest
from shardwright.costmodel.evaluate import estimate_plan
from shardwright.specs.cluster import ClusterSpec
from shardwright.specs.estimate import Estimate
from shardwright.specs.model.model import ModelSpec
from shardwright.specs.plan import Plan
from shardwright.specs.spec import Spec
from shardwright.specs.stacks import OWN_STACK
from shardwright.specs.training import TrainingSpec
from shardwright.validation.scores.prediction import EstimatePlan, Prediction, fastest

from .strategies import STRATEGIES, levels_of

__all__ = ["BEST", "STRATEGIES", "ComparedPlan", "Comparison", "SearchPlan", "compare"]

SearchPlan = Callable[[ModelSpec, ClusterSpec, TrainingSpec], Plan]
BEST = "best"


class ComparedPlan(Spec):
    """One way to train. `reason` says why it cannot run; it then has no plan, or one that needs too much memory."""

    name: str
    plan: Plan | None = None
    estimate: Estimate | None = None
    reason: str | None = None

    @property
    def step_seconds(self) -> float | None:
        """Predicted seconds of one step; None where it cannot run."""
        return self.estimate.step_seconds if self.estimate is not None and self.reason is None else None


class Comparison(Spec):
    """The ways in the order asked for."""

    model_name: str
    cluster_name: str
    stack: str = OWN_STACK
    rows: tuple[ComparedPlan, ...]

    @property
    def fastest(self) -> ComparedPlan | None:
        """The row predicted to be fastest; None where nothing fits."""
        able = [(row.step_seconds, row) for row in self.rows if row.step_seconds is not None]
        return min(able, key=lambda item: item[0])[1] if able else None

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dumps`."""
        return self.model_dump(mode="json")


def compare(
    model: ModelSpec,
    cluster: ClusterSpec,
    training: TrainingSpec,
    *,
    strategies: Sequence[str] = STRATEGIES,
    plans: Mapping[str, Plan] | None = None,
    search: SearchPlan | None = None,
    estimate: EstimatePlan = estimate_plan,
) -> Comparison:
    """Estimate the named strategies, then the given plans by name, then what `search` finds, as the row "best".

    What does not fit, or does not divide, is a row with its reason.

    Raises:
        SpecError: an unknown strategy.
    """
    for name in strategies:
        if name not in STRATEGIES:
            raise SpecError(f"unknown strategy '{name}'; known: {', '.join(STRATEGIES)}.{nearest(name, STRATEGIES)}")

    def of_levels(name: str, levels: Callable[[], Iterable[list[Plan]]]) -> ComparedPlan:
        try:
            return _row(name, _first_that_fits(model, cluster, training, levels(), estimate))
        except (SpecError, InfeasibleError) as reason:
            return ComparedPlan(name=name, reason=str(reason))

    rows = [of_levels(name, partial(levels_of, name, model, cluster, training)) for name in strategies]
    rows += [of_levels(name, partial(list, [[plan]])) for name, plan in (plans or {}).items()]
    if search is not None:
        rows.append(of_levels(BEST, lambda: [[search(model, cluster, training)]]))
    return Comparison(model_name=model.name, cluster_name=cluster.name, stack=training.stack, rows=tuple(rows))


def _first_that_fits(
    model: ModelSpec,
    cluster: ClusterSpec,
    training: TrainingSpec,
    levels: Iterable[list[Plan]],
    estimate: EstimatePlan,
) -> Prediction:
    """The fastest plan of the first level in which one fits; where none does, the one that comes nearest."""
    nearest_miss: Prediction | None = None
    refusal: SpecError | None = None
    for level in levels:
        if not level:
            continue
        try:
            found = fastest(model, cluster, training, level, estimate)
        except SpecError as error:
            refusal = refusal or error
            continue
        if found.too_large is None:
            return found
        if nearest_miss is None or found.estimate.peak_memory_bytes < nearest_miss.estimate.peak_memory_bytes:
            nearest_miss = found
    if nearest_miss is None:
        raise refusal or SpecError("it has no plan")
    return nearest_miss


def _row(name: str, prediction: Prediction) -> ComparedPlan:
    return ComparedPlan(name=name, plan=prediction.plan, estimate=prediction.estimate, reason=prediction.too_large)
