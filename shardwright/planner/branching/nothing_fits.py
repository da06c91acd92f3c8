"""Why nothing fits: which limit binds, by how much, and the smallest changes that would fit, each tried."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from shardwright.base import InfeasibleError, SpecError
from shardwright.costmodel import estimate_plan
from shardwright.costmodel.op_times import CALIBRATED, op_times
from shardwright.costmodel.tables import usable_bytes
from shardwright.planner.bounds import lower_bounds
from shardwright.planner.space import Fixed, Space, SpaceCosts, enumerate_space, layer_ranges, space_costs
from shardwright.planner.stages import EntrySolver, Solved, allowed_policies, plan_of
from shardwright.specs import ClusterSpec, TrainingSpec
from shardwright.specs.model import ModelSpec

from .least_memory import LeastMemory, least_memory

_GIB = 2**30
_MOST_DOUBLINGS = 10
_SHORTEST_SEQUENCE = 128
_TRIES = 40


def infeasible(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed) -> InfeasibleError:
    """The error to raise where `search` found no plan that fits."""
    space = enumerate_space(model, cluster, training, fixed)
    costs = space_costs(space, model, cluster, training, op_times(cluster, training))
    nearest = _nearest(costs, model, fixed)
    if nearest is None:
        binds = f"no plan fits with {fixed}: interleaved stages keep more microbatches alive than the memory holds"
    else:
        binds = _what_binds(model, cluster, training, space, *nearest)
    found = [change.text for change in what_would_fit(model, cluster, training, fixed)]
    return InfeasibleError(binds + (f"; what would fit: {', or '.join(found)}" if found else ""))


def fits(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed) -> bool:
    """Whether some plan fits; tried, not estimated."""
    try:
        space = enumerate_space(model, cluster, training, fixed)
    except SpecError:
        return False
    costs = space_costs(space, model, cluster, training, op_times(cluster, training))
    ranges, allowed = layer_ranges(model), allowed_policies(fixed.recompute)
    bounds = lower_bounds(costs, ranges, allowed)
    solver, order = EntrySolver(costs, ranges, allowed), np.argsort(bounds, kind="stable")
    order = order[np.isfinite(bounds[order])]
    plain = order[space.stages_per_rank[order] == 1]  # interleaving keeps more alive, so it fits nowhere else
    tried = plain if len(plain) else order
    return any(solver.solve(int(entry), 0.0, np.inf).solved is not None for entry in tried[:_TRIES])


def lacking_bytes(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed) -> float:
    """Device bytes that the plan that comes closest lacks; 0 where the host's memory or the schedule is what binds."""
    space = enumerate_space(model, cluster, training, fixed)
    costs = space_costs(space, model, cluster, training, op_times(cluster, training))
    found = _nearest(costs, model, fixed)
    return 0.0 if found is None else max(0.0, (found[1].device_share - 1) * costs.entry(found[0]).room_bytes)


def _nearest(costs: SpaceCosts, model: ModelSpec, fixed: Fixed) -> tuple[int, LeastMemory] | None:
    """The entry that comes closest to fitting, of those with small microbatches; None where all are interleaved."""
    space, ranges, allowed = costs.space, layer_ranges(model), allowed_policies(fixed.recompute)
    smallest: dict[tuple[int, ...], int] = {}
    names = ("pp", "dp_replicate", "dp_shard", "tp", "zero_stage", "host_optimizer")
    sizes = space.column("micro_batch") * 1000 + space.stages_per_rank
    for entry in np.argsort(-sizes, kind="stable"):
        smallest[tuple(int(space.column(name)[entry]) for name in names)] = int(entry)
    found = []
    for entry in smallest.values():
        one = costs.entry(entry)
        if one.stages_per_rank == 1:
            found.append((entry, least_memory(one, ranges, allowed)))
    return min(found, key=lambda pair: pair[1].share, default=None)


def _what_binds(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, space: Space, entry: int, least: LeastMemory
) -> str:
    plan = plan_of(Solved(entry, least.layers, least.mix, np.inf), space, model)
    estimate = estimate_plan(model, cluster, training, plan)
    node = cluster.groups[0]
    shown = f"{plan.mesh}, ZeRO-{plan.zero_stage}, micro batch {plan.micro_batch}"
    if least.host_share > least.device_share:
        share, need = node.host.memory_bytes / node.devices_per_node, max(estimate.host_bytes)
        return (
            f"no plan fits the host memory: the one that comes closest ({shown}, optimizer on the host) needs "
            f"{need / _GIB:.1f} GiB of it for each device and has {share / _GIB:.1f}, {(need - share) / _GIB:.1f} GiB too much"
        )
    rank = max(range(len(estimate.memory)), key=lambda index: estimate.memory[index].total)
    parts = estimate.memory[rank]
    name, size = max(parts, key=lambda part: part[1])
    have = usable_bytes(node.device, CALIBRATED)
    return (
        f"no plan fits the device memory: the one that comes closest ({shown}) needs {parts.total / _GIB:.1f} GiB on "
        f"pipeline rank {rank}, {size / _GIB:.1f} of it {name.replace('_', ' ')}, and {node.device.name} has "
        f"{have / _GIB:.1f} usable, {(parts.total - have) / _GIB:.1f} GiB too much"
    )


@dataclass(frozen=True)
class Change:
    """One change of the request with which some plan fits."""

    text: str
    cluster: ClusterSpec
    training: TrainingSpec
    fixed: Fixed


def what_would_fit(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed) -> Iterator[Change]:
    """Single changes that make a plan fit, cheapest for the user first; each is the smallest of its kind tried."""
    for name, value in fixed:
        freed = fixed.model_copy(update={name: None})
        if value is not None and fits(model, cluster, training, freed):
            yield Change(f"{name} other than {value}", cluster, training, freed)
    length = training.seq_len // 2
    while length >= _SHORTEST_SEQUENCE:
        shorter = training.model_copy(update={"seq_len": length})
        if fits(model, cluster, shorter, fixed):
            yield Change(f"a sequence length of {length}", cluster, shorter, fixed)
            break
        length //= 2
    for doubling in range(1, _MOST_DOUBLINGS + 1):
        more = _times_nodes(cluster, 2**doubling)
        if fits(model, more, training, fixed):
            yield Change(f"{more.devices} devices of this kind", more, training, fixed)
            break


def _times_nodes(cluster: ClusterSpec, factor: int) -> ClusterSpec:
    """The cluster with so many times the nodes."""
    groups = tuple(group.model_copy(update={"nodes": group.nodes * factor}) for group in cluster.groups)
    return cluster.model_copy(update={"groups": groups})
