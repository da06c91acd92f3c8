"""Several ways to train the same model on the same cluster, side by side."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from shardwright.base import InfeasibleError, SpecError
from shardwright.costmodel import EstimatePlan, Prediction, estimate_plan, fastest, lacking_bytes, predict
from shardwright.planner.space import changed, words_of
from shardwright.reports.plan import ComparedPlan, Comparison
from shardwright.specs import ClusterSpec, Estimate, Mesh, Plan, TrainingSpec
from shardwright.specs.model import ModelSpec

from .strategies import STRATEGIES, check_strategy, levels_of, strategies_for

__all__ = ["BEST", "STRATEGIES", "ComparedPlan", "Comparison", "SearchPlan", "Searched", "compare"]


class Searched(NamedTuple):
    """The plan that a search found, the devices that it is for where these are other than asked, and its training spec where that
    is another one."""

    plan: Plan
    cluster: ClusterSpec | None = None
    training: TrainingSpec | None = None


SearchPlan = Callable[[ModelSpec, ClusterSpec, TrainingSpec], Plan | Searched]
"""A search for the best plan."""

BEST = "best"


def compare(
    model: ModelSpec,
    cluster: ClusterSpec,
    training: TrainingSpec,
    *,
    strategies: Sequence[str] | None = None,
    plans: Mapping[str, Plan | Searched] | None = None,
    searches: Mapping[str, SearchPlan] | None = None,
    estimate: EstimatePlan = estimate_plan,
) -> Comparison:
    """Estimate the named strategies, then the given plans by name, then what the searches find, by name. A plan may bring a training
    spec of its own.

    The default strategies are those of `strategies_for`.

    On a mixed cluster each strategy has a row for all devices and one for each group alone. A way that does not fit, or does not divide, is a row with its reason.

    Raises:
        SpecError: an unknown strategy.
    """
    strategies = strategies_for(model) if strategies is None else strategies
    for name in strategies:
        check_strategy(name)

    def of_levels(
        name: str, levels: Callable[[], Iterable[list[Plan]]], devices: ClusterSpec | None = None
    ) -> ComparedPlan:
        try:
            found = _first_that_fits(model, devices or cluster, training, levels(), estimate)
        except (SpecError, InfeasibleError) as reason:
            return ComparedPlan(name=name, reason=str(reason), cluster=devices)
        return _row(name, found, cluster, devices)

    rows = [of_levels(name, partial(levels_of, name, model, cluster, training)) for name in strategies]
    for part in _groups_alone(cluster):
        where = f"{part.devices} {part.node.device.name}"
        rows += [
            of_levels(f"{name} on {where}", partial(levels_of, name, model, part, training), part)
            for name in strategies
        ]
    given = {name: (lambda *_, plan=plan: plan) for name, plan in (plans or {}).items()}
    rows += [_searched(name, model, cluster, training, as_given, estimate) for name, as_given in given.items()]
    rows += [_searched(name, model, cluster, training, search, estimate) for name, search in (searches or {}).items()]
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
            found = _fastest(model, cluster, training, level, estimate)
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


def _fastest(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, level: Sequence[Plan], estimate: EstimatePlan
) -> Prediction:
    """The fastest plan of a level, whose microbatches rise on each mesh. Where one does not fit, no larger one does, unless it is
    the only one of the step and its gradients come as its activations go."""
    full: set[Mesh] = set()

    def noted(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, plan: Plan) -> Estimate:
        found = estimate(model, cluster, training, plan)
        if lacking_bytes(found, cluster) > 0:
            full.add(plan.mesh)
        return found

    needed = (plan for plan in level if plan.mesh not in full or plan.microbatches == 1)
    return fastest(model, cluster, training, needed, noted)


def _groups_alone(cluster: ClusterSpec) -> list[ClusterSpec]:
    """The groups of a mixed cluster, of equal ones the first."""
    if not cluster.is_mixed:
        return []
    return [cluster.alone(index) for index, group in enumerate(cluster.groups) if cluster.groups.index(group) == index]


def _searched(
    name: str,
    model: ModelSpec,
    cluster: ClusterSpec,
    training: TrainingSpec,
    search: SearchPlan,
    estimate: EstimatePlan,
) -> ComparedPlan:
    """The row of the plan that `search` finds."""
    try:
        found = search(model, cluster, training)
        plan, devices, own = found if isinstance(found, Searched) else Searched(found)
        predicted = predict(model, devices or cluster, own or training, plan, estimate)
        row = _row(name, predicted, cluster, devices)
    except (SpecError, InfeasibleError) as reason:
        return ComparedPlan(name=name, reason=str(reason))
    differs = changed(own, training) if own else []
    if own is None or not differs:
        return row
    return row.model_copy(update={"training": own, "trained": tuple(words_of(own, each) for each in differs)})


def _row(name: str, prediction: Prediction, cluster: ClusterSpec, devices: ClusterSpec | None) -> ComparedPlan:
    return ComparedPlan(
        name=name,
        plan=prediction.plan,
        estimate=prediction.estimate,
        reason=prediction.too_large,
        lacking_bytes=lacking_bytes(prediction.estimate, devices or cluster),
        cluster=devices,
    )
