"""Replicas in several groups of a mixed cluster: the estimate and the timeline of them all, from those of each group.

Replicas meet where they sum their gradients, so the step is that of the group which takes longest. The exchange counts in every group
with the time of the slowest (`ReplicaExchange`). What a faster group waits for the slower one is no part of its own costs.
"""

from collections.abc import Sequence

import numpy as np

from shardwright.specs import Estimate, Interval, Plan, Timeline, TrainingSpec

from .intervals import step_intervals
from .plan_costs import PlanCosts, around


def estimate_of_groups(each: Sequence[PlanCosts], plan: Plan, training: TrainingSpec) -> Estimate:
    """Return the estimate of `plan`, whose replicas have the costs `each` (G,). Its memory lists the ranks of one replica in every
    group, group by group, and `groups` says which group that is."""
    found = [costs.estimate() for costs in each]
    slowest = max(found, key=lambda one: one.step_seconds)
    seconds, mesh = slowest.step_seconds, plan.mesh
    ranks = [group.count * mesh.ranks // mesh.dp_replicate for group in plan.replicas]
    model_flops = sum(one.model_flops for one in found)
    hardware_flops = sum(one.hardware_flops for one in found)
    format_ = training.precision.compute
    peaks = [costs.times.node.device.peak_flops_per_s[format_] for costs in each]
    peak_flops = float(np.dot(ranks, peaks)) * seconds
    return Estimate(
        step=slowest.step,
        step_seconds_intervals=_intervals(each, training, seconds),
        memory=tuple(part for one in found for part in one.memory),
        host_bytes=tuple(size for one in found for size in one.host_bytes),
        nvme_bytes=tuple(size for one in found for size in one.nvme_bytes),
        groups=tuple(index for index, one in enumerate(found) for _ in one.memory),
        tokens_per_s=training.tokens_per_step / seconds,
        model_flops=model_flops,
        hardware_flops=hardware_flops,
        mfu=model_flops / peak_flops,
        hfu=hardware_flops / peak_flops,
        device_count=mesh.ranks,
        basis="profile" if all(one.basis == "profile" for one in found) else "catalog",
    )


def _intervals(each: Sequence[PlanCosts], training: TrainingSpec, seconds: float) -> tuple[Interval, Interval]:
    """The intervals of a step, each as wide as those of all groups together."""
    low, high = zip(*(step_intervals(seconds, costs.model, training, costs.times) for costs in each), strict=True)
    return around(low), around(high)


def timeline_of_groups(each: Sequence[Timeline]) -> Timeline:
    """Return one timeline with the ranks of all, group by group. Each group ends when it is done, without waiting for others."""
    if len(each) == 1:
        return each[0]
    first = np.cumsum([0, *(one.pp for one in each)])
    spans = [
        span._replace(rank=span.rank + int(start))
        for start, one in zip(first, each, strict=False)
        for span in one.spans
    ]
    spans.sort(key=lambda span: (span.start_seconds, span.rank))
    return Timeline(int(first[-1]), tuple(spans), tuple(curve for one in each for curve in one.memory), len(each))
