"""Several ways to train the same model on the same cluster, side by side."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from shardwright.base import InfeasibleError, SpecError, nearest
from shardwright.costmodel import EstimatePlan, Prediction, estimate_plan, fastest
from shardwright.reports.plan import ComparedPlan, Comparison
from shardwright.specs import ClusterSpec, Plan, TrainingSpec
from shardwright.specs.model import ModelSpec

from .strategies import STRATEGIES, levels_of

__all__ = ["BEST", "STRATEGIES", "ComparedPlan", "Comparison", "SearchPlan", "compare"]

SearchPlan = Callable[[ModelSpec, ClusterSpec, TrainingSpec], Plan]
BEST = "best"


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

    A way that does not fit, or does not divide, is a row with its reason.

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
    """The fastest plan of the first level in which one fits; if none fits, the one that needs the least memory."""
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
