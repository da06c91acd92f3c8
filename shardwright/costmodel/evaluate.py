"""The estimate of one plan and its timeline, on nodes of one kind, on a pipeline through several groups, or as replicas in them; whether it
fits, and the fastest of several plans."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from shardwright.base import InfeasibleError, SpecError
from shardwright.costmodel.op_times import CALIBRATED, OpTimes, op_times
from shardwright.costmodel.pipeline import make_schedule, peak_activation_bytes, simulate
from shardwright.specs import ClusterSpec, Estimate, Plan, Timeline, TrainingSpec
from shardwright.specs.model import ModelSpec

from .checks import check_memory, check_plan
from .mixed_ranks import MixedRanks, MixedTimes
from .plan_costs import PlanCosts
from .replica_groups import estimate_of_groups, timeline_of_groups

EstimatePlan = Callable[[ModelSpec, ClusterSpec, TrainingSpec, Plan], Estimate]


class Prediction(NamedTuple):
    """A plan and its estimate. `too_large` says by how much it exceeds the memory, None where it fits.

    `assumptions` name the values that the row did not give, and how they were chosen.
    """

    plan: Plan
    estimate: Estimate
    too_large: str | None
    assumptions: tuple[str, ...] = ()


def estimate_plan(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, plan: Plan, times: OpTimes | None = None
) -> Estimate:
    """Predict one step of `plan` by the closed form; `times` defaults to `op_times`.

    The estimated memory may exceed that of the devices; `check_memory` tests that.

    Raises:
        SpecError: the plan does not divide the model, the batch or the cluster.
    """
    costs = costs_of_groups(model, cluster, training, plan, times)
    return costs[0].estimate() if len(costs) == 1 else estimate_of_groups(costs, plan, training)


def simulate_plan(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, plan: Plan, times: OpTimes | None = None
) -> Timeline:
    """Return the timeline of one step of `plan`, with one set of lanes for each pipeline rank. Where data parallelism reaches over
    groups, these are the ranks of one replica in each, group by group.

    Raises:
        SpecError: the plan does not divide the model, the batch or the cluster.
    """
    return timeline_of_groups([_simulated(costs) for costs in costs_of_groups(model, cluster, training, plan, times)])


def _simulated(costs: PlanCosts) -> Timeline:
    plan = costs.plan
    schedule = make_schedule(plan.schedule, plan.mesh.pp, plan.stages_per_rank, plan.microbatches)
    each, postponed = costs.activation_bytes_per_stage(), costs.postponed_bytes_per_stage()
    kept = peak_activation_bytes(plan.schedule, plan.mesh.pp, plan.microbatches, each, postponed)
    # the working memory of a backward is in use nearly all the time, so it counts as held over the whole step
    fixed = [part.total - kept[rank] for rank, part in enumerate(costs.memory())]
    return simulate(schedule, costs.stage_costs(), activation_bytes=each, postponed_bytes=postponed, static_bytes=fixed)


def plan_costs(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, plan: Plan, times: OpTimes | None = None
) -> PlanCosts:
    """Return the costs behind the estimate of a plan whose data parallelism reaches over no groups; arguments as in `costs_of_groups`.

    Raises:
        SpecError: the plan does not divide the model, the batch or the cluster.
    """
    (costs,) = costs_of_groups(model, cluster, training, plan, times)
    return costs


def costs_of_groups(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, plan: Plan, times: OpTimes | None = None
) -> list[PlanCosts]:
    """Return the costs behind an estimate: one item, or one for the replicas of each group where the plan has them. `times` defaults
    to `op_times`. On a mixed cluster each group has times of its own, and `times` give the constants alone.

    Raises:
        SpecError: the plan does not divide the model, the batch or the cluster.
    """
    check_plan(plan, model, cluster, training)
    model = model.trained_as(training.trainable)
    if not cluster.is_mixed:
        return [PlanCosts(model, training, plan, times or op_times(cluster, training))]
    mixed = MixedTimes.of(cluster, training, times.constants if times else CALIBRATED)
    if not plan.replicas:
        groups = cluster.groups_of_ranks(plan.mesh.pp, plan.mesh.ranks // plan.mesh.pp)
        return [PlanCosts(model, training, plan, mixed.of_group[groups[0]], MixedRanks(mixed, groups))]
    counts = [group.count for group in plan.replicas]
    found = []
    for index, (group, own) in enumerate(zip(plan.replicas, mixed.of_group, strict=True)):
        batch = {"micro_batch": group.micro_batch, "microbatches": group.microbatches, "stages": group.stages}
        alike = plan.model_copy(update={**batch, "replicas": ()})  # with the replicas of all groups in dp_replicate
        share = {"global_batch": plan.of_group(index).global_batch}
        exchange = mixed.exchange(counts, index)
        found.append(PlanCosts(model, training.model_copy(update=share), alike, own, exchange=exchange))
    return found


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
