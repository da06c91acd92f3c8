"""Fewer devices than a cluster has: where nothing divides over all of them, or where fewer are faster."""

from collections.abc import Iterator
from typing import NamedTuple

from shardwright.base import SpecError
from shardwright.costmodel import estimate_plan
from shardwright.costmodel.op_times import op_times
from shardwright.planner.branching import BranchAndBound, SearchResult, fits
from shardwright.planner.space import Fixed, meshes_of
from shardwright.specs import ClusterSpec, LayerRun, Mesh, Plan, Stage, TrainingSpec
from shardwright.specs.model import ModelSpec

# These limit work, not time, so that repeated runs give the same answer.
_MOST_COUNTS = 256
_MOST_SEARCHED = 8
_MOST_ENTRIES = 0.25  # of those of all devices, or
_FEW_ENTRIES = 1000
_MOST_SOLVED = 8


class Faster(NamedTuple):
    """A part of the cluster, or another batch, and the step of a plan for it."""

    cluster: ClusterSpec
    training: TrainingSpec
    step_seconds: float


def smaller_clusters(cluster: ClusterSpec) -> Iterator[ClusterSpec]:
    """Yield the parts of a cluster, largest first: whole nodes, then fewer devices of one node."""
    node = cluster.node
    for nodes in range(cluster.devices // node.devices_per_node - 1, 0, -1):
        group = node.model_copy(update={"nodes": nodes})
        yield cluster.model_copy(update={"name": f"{group.devices} of {cluster.name}", "groups": (group,)})
    for devices in range(node.devices_per_node - 1, 0, -1):
        group = node.part(devices).model_copy(update={"nodes": 1})
        yield cluster.model_copy(update={"name": f"{devices} of {cluster.name}", "groups": (group,)})


def largest_that_fits(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed
) -> ClusterSpec | None:
    """Return the largest part of a cluster on which a plan was found; None where few tries find none."""
    tried = 0
    for number, smaller in enumerate(smaller_clusters(cluster)):
        if number >= _MOST_COUNTS or tried >= _MOST_SEARCHED:
            return None
        if next(meshes_of(model, smaller, training, fixed), None) is not None:
            tried += 1
            if fits(model, smaller, training, fixed, op_times(smaller, training)):
                return smaller
    return None


def faster_on_fewer(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, found: SearchResult, tolerance: float
) -> Faster | None:
    """Return the part of a cluster with the fastest plan that takes at most 1 - `tolerance` of the step that was `found`.

    A part is searched only where its computing, spread evenly, takes less: step >= work / devices x the share of layers
    that the fullest rank of its best pipeline holds too many (`least_work_seconds`).
    """
    best, searched, entries = None, 0, 0
    most_entries = max(_FEW_ENTRIES, _MOST_ENTRIES * found.candidates_total)
    limit, work = found.estimate.step_seconds * (1 - tolerance), least_work_seconds(model, cluster, found)
    for number, smaller in enumerate(smaller_clusters(cluster)):
        enough = number >= _MOST_COUNTS or searched >= _MOST_SEARCHED or entries > most_entries
        if enough or work / smaller.devices >= limit:
            break
        pipelines = {mesh.pp for mesh in meshes_of(model, smaller, training, found.fixed)}
        unevenness = [pp * -(-model.layer_count // pp) / model.layer_count for pp in pipelines]
        if not unevenness or work / smaller.devices * min(unevenness) >= limit:
            continue
        run = below(model, smaller, training, found.fixed, limit)
        searched, entries = searched + 1, entries + (len(run.space) if run else 0)
        if run and run.best:
            best, limit = Faster(smaller, training, run.best.step_seconds), run.best.step_seconds
    return best


def least_work_seconds(model: ModelSpec, cluster: ClusterSpec, found: SearchResult) -> float:
    """Return the seconds of computing of all devices: under the plan found, if every rank of its pipeline had equally many layers,
    or on one device with the whole batch in one microbatch, if that is less. Small microbatches wait for the launches of kernels,
    which fewer devices with larger ones do not.

    0 where some layers are frozen: they take less than the others, so that equally many layers are no even work.
    """
    if found.training.trainable.kind == "layers":
        return 0.0
    plan = found.plan
    held = [0] * plan.mesh.pp
    for rank, stage in zip(plan.stage_ranks, plan.stages, strict=True):
        held[rank] += stage.layer_count
    even = found.estimate.step.compute * found.estimate.device_count * plan.layer_count / (max(held) * plan.mesh.pp)
    one_device = cluster.model_copy(update={"groups": (cluster.node.part(1).model_copy(update={"nodes": 1}),)})
    stage = Stage(layers=(LayerRun(count=plan.layer_count),), mtp_layers=sum(each.mtp_layers for each in plan.stages))
    at_once = Plan(mesh=Mesh(), micro_batch=found.training.global_batch, microbatches=1, stages=(stage,))
    model = model.trained_as(found.training.trainable)
    return min(even, estimate_plan(model, one_device, found.training, at_once).step.compute)


def below(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed, limit_seconds: float
) -> BranchAndBound | None:
    """Return a short search for a plan that takes less than `limit_seconds`; None where nothing divides."""
    try:
        run = BranchAndBound.start(model, cluster, training, fixed, op_times(cluster, training))
    except SpecError:
        return None
    run.ceiling = limit_seconds
    run.run(most_tried=_MOST_SOLVED)
    return run
