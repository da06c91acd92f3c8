"""A plan and its estimate, and the fastest of several plans."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from shardwright.base import InfeasibleError, SpecError
from shardwright.specs import ClusterSpec, Estimate, Plan, TrainingSpec
from shardwright.specs.model import ModelSpec

from .checks import check_memory

EstimatePlan = Callable[[ModelSpec, ClusterSpec, TrainingSpec, Plan], Estimate]


class Prediction(NamedTuple):
    """A plan and its estimate. `too_large` says by how much it exceeds the memory, None where it fits.

    `assumptions` name the values that the row did not give, and how they were chosen.
    """

    plan: Plan
    estimate: Estimate
    too_large: str | None
    assumptions: tuple[str, ...] = ()


def fastest(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, plans: Iterable[Plan], estimate: EstimatePlan
) -> Prediction:
    """Return the plan predicted to be fastest among those that fit; where none fits, the one that needs the least
    memory.

    Raises:
        SpecError: no plan is valid for the model, the batch and the cluster; the message is that of the first plan.
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
