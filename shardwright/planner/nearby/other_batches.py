"""Batches near the one of a job that divide better over its devices."""

from collections.abc import Iterator
from math import gcd

from shardwright.base import divisors
from shardwright.costmodel.op_times import op_times
from shardwright.planner.branching import SearchResult, fits
from shardwright.planner.space import Fixed, meshes_of
from shardwright.specs import ClusterSpec, TrainingSpec
from shardwright.specs.model import ModelSpec

from .fewer_devices import Faster, below, least_work_seconds

# How far a batch that is only faster may be from the job's, as a share of it.
_NEAR = 0.25

# These limit work, not time, so that repeated runs give the same answer.
_MOST_SEARCHED = 3
_MOST_CHECKED = 6


def faster_batches(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, found: SearchResult, tolerance: float
) -> list[Faster]:
    """Return the nearest batch below and the nearest above with more than 1 + `tolerance` times as many tokens/s.

    Only batches are tried that share a larger divisor with the number of devices than all nearer ones on their side: those
    are the first multiples of more data-parallel degrees. One of these degrees must be below the next one that the batch of
    the job had to offer: if not, more data parallelism was there to take and not better.
    """
    seconds = found.estimate.step_seconds
    if least_work_seconds(model, cluster, found) / cluster.devices > seconds / (1 + tolerance):
        return []
    faster = []
    for direction in (-1, 1):
        for number, batch in enumerate(_better_dividing(training.global_batch, cluster.devices, direction)):
            if number >= _MOST_SEARCHED or not _offers_a_next_degree(batch, training, cluster, found.plan.mesh.dp):
                break
            other = training.model_copy(update={"global_batch": batch})
            limit = seconds * batch / training.global_batch / (1 + tolerance)
            run = below(model, cluster, other, found.fixed, limit)
            if run and run.best:
                faster.append(Faster(cluster, other, run.best.step_seconds))
                break
    return faster


def _offers_a_next_degree(batch: int, training: TrainingSpec, cluster: ClusterSpec, dp: int) -> bool:
    mine = divisors(gcd(training.global_batch, cluster.devices))
    following = min((degree for degree in mine if degree > dp), default=cluster.devices + 1)
    return any(degree < following for degree in divisors(gcd(batch, cluster.devices)) if degree not in mine)


def batches_that_fit(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed) -> list[int]:
    """Return the nearest batch below and the nearest above for which a plan was found, where few tries find them."""
    whole = training.model_copy(update={"global_batch": cluster.devices})  # every data-parallel degree divides it
    degrees = {mesh.dp for mesh in meshes_of(model, cluster, whole, fixed)}
    batch, found = training.global_batch, []
    for near in (
        sorted({batch // dp * dp for dp in degrees} - {0, batch}, reverse=True),
        sorted({(batch // dp + 1) * dp for dp in degrees}),
    ):
        for other in near[:_MOST_CHECKED]:
            asked = training.model_copy(update={"global_batch": other})
            if fits(model, cluster, asked, fixed, op_times(cluster, asked)):
                found.append(other)
                break
    return found


def _better_dividing(batch: int, devices: int, direction: int) -> Iterator[int]:
    """Yield batches from `batch` down (-1) or up (1) whose common divisor with `devices` is larger than all before."""
    most, last = gcd(batch, devices), batch + direction * min(int(batch * _NEAR), devices)
    for other in range(batch + direction, last + direction, direction):
        if gcd(other, devices) > most and other > 0:
            most = gcd(other, devices)
            yield other
