"""The cost model and the planner as benchmarks call them: one plan's estimate, and the choice of what a row leaves unknown."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from shardwright.base.errors import InfeasibleError, SpecError
from shardwright.costmodel.checks import check_memory
from shardwright.planner import Fixed, search
from shardwright.specs.cluster import ClusterSpec
from shardwright.specs.estimate import Estimate
from shardwright.specs.model.model import ModelSpec
from shardwright.specs.plan import Plan
from shardwright.specs.training import TrainingSpec
from shardwright.validation.rows.setup import RowSetup

EstimatePlan = Callable[[ModelSpec, ClusterSpec, TrainingSpec, Plan], Estimate]
ChoosePlan = Callable[[ModelSpec, ClusterSpec, TrainingSpec, Fixed], Plan]

_SEARCH_SECONDS = 5.0
_ALIKE = 0.01  # of a step: what repeated runs differ by


class Prediction(NamedTuple):
    """A plan and its estimate. `too_large` says by how much it exceeds the memory, None where it fits.

    `assumptions` says how what the row left unknown was chosen.
    """

    plan: Plan
    estimate: Estimate
    too_large: str | None
    assumptions: tuple[str, ...] = ()


def predict_setup(setup: RowSetup, estimate: EstimatePlan, choose: ChoosePlan) -> Prediction:
    """Estimate the plan of a row. What it leaves unknown is chosen by `choose`, with all else kept.

    Where nothing fits although the run ran, the plan that needs the least memory stands for it; where the planner cannot
    keep what the row states, the fastest of its even plans.

    Raises:
        SpecError: no plan is valid for the model, the batch and the cluster.
    """
    job = (setup.model, setup.cluster, setup.training)
    if not setup.unknown:
        return fastest(*job, setup.plans, estimate)
    found, plans = [], setup.plans
    for fixed in setup.fixed:
        try:
            found.append(predict(*job, choose(*job, fixed), estimate))
        except InfeasibleError:
            smallest = min(plan.micro_batch for plan in plans)  # the least memory is there
            plans = tuple(plan for plan in plans if plan.micro_batch == smallest)
        except SpecError:  # the row's own plans will say it, or show that the planner alone cannot keep them
            continue
    if found:
        best, how = _roomiest_of_the_fastest(found), "chosen by the planner"
    else:
        best = fastest(*job, plans, estimate)
        how = "the fastest even plan" if best.too_large is None else "the least memory, as nothing is predicted to fit"
    return best._replace(assumptions=tuple(f"{name}: {how}" for name in setup.unknown))


def _roomiest_of_the_fastest(found: Sequence[Prediction]) -> Prediction:
    """Of predictions that no one could tell apart by time, the one that leaves most memory: so would a person choose."""
    fastest_seconds = min(one.estimate.step_seconds for one in found)
    alike = [one for one in found if one.estimate.step_seconds <= (1 + _ALIKE) * fastest_seconds]
    return min(alike, key=lambda one: one.estimate.peak_memory_bytes)


def planners_choice(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed) -> Plan:
    """What `shardwright plan` would choose.

    Raises:
        SpecError: nothing divides, or the planner does not search what is fixed.
        InfeasibleError: nothing fits.
    """
    found = search(model, cluster, training, fixed=fixed, time_limit_seconds=_SEARCH_SECONDS, runners_up=0)
    return found.plan


def fastest(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, plans: Iterable[Plan], estimate: EstimatePlan
) -> Prediction:
    """The plan predicted to be fastest among those that fit; where none fits, the one that needs the least memory.

    Raises:
        SpecError: no plan is valid for the model, the batch and the cluster; the message is the first plan's.
    """
    predictions: list[Prediction] = []
    refusals: list[SpecError] = []
    for plan in plans:
        try:
            predictions.append(predict(model, cluster, training, plan, estimate))
        except SpecError as refusal:
            refusals.append(refusal)
    if not predictions:
        raise refusals[0] if refusals else SpecError("no plan was given")
    if fitting := [prediction for prediction in predictions if prediction.too_large is None]:
        return min(fitting, key=lambda prediction: prediction.estimate.step_seconds)
    return min(predictions, key=lambda prediction: prediction.estimate.peak_memory_bytes)


def predict(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, plan: Plan, estimate: EstimatePlan
) -> Prediction:
    """Estimate one plan and say whether it fits.

    Raises:
        SpecError: the plan is not valid for the model, the batch and the cluster.
    """
    result = estimate(model, cluster, training, plan)
    try:
        check_memory(result, cluster)
    except InfeasibleError as over:
        return Prediction(plan, result, str(over))
    return Prediction(plan, result, None)
