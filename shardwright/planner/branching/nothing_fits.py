"""Why nothing fits: the limit that binds, the missing bytes, and the smallest changes that were found to fit."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from shardwright.base import GIB, Array, InfeasibleError, SpecError
from shardwright.costmodel import estimate_plan
from shardwright.costmodel.op_times import OpTimes, op_times
from shardwright.costmodel.tables import host_share_bytes, usable_bytes
from shardwright.planner.space import Fixed, Space, SpaceCosts, enumerate_space, kept_by, last_resorts, space_costs
from shardwright.planner.stages import EntrySolver, Solved, plan_of
from shardwright.specs import AXES, ClusterSpec, TrainingSpec
from shardwright.specs.model import ModelSpec

from .least_memory import LeastMemory, least_memory
from .open_entries import OpenEntries

_MOST_DOUBLINGS = 10
_SHORTEST_SEQUENCE = 128
_TRIES = 40


def infeasible(
    model: ModelSpec,
    cluster: ClusterSpec,
    training: TrainingSpec,
    fixed: Fixed,
    times: OpTimes,
    *,
    say_what_fits: bool = True,
) -> InfeasibleError:
    """Return the error to raise where `search` found no plan that fits: the limit, and what would fit if that is asked for."""
    costs = space_costs(enumerate_space(model, cluster, training, fixed), model, training, times)
    nearest = _nearest(costs, model)
    if nearest is None:
        binds = f"no plan fits with {fixed}: its stages keep more microbatches alive than the memory holds"
    else:
        binds = _what_binds(model, cluster, training, times, costs.space, *nearest)
    changes = what_would_fit(model, cluster, training, fixed, times) if say_what_fits else ()
    found = [change.text for change in changes]
    return InfeasibleError(binds + (f"; what would fit: {', or '.join(found)}" if found else ""))


def fits(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed, times: OpTimes) -> bool:
    """Whether some plan fits, found by solving entries."""
    try:
        space = enumerate_space(model, cluster, training, fixed)
    except SpecError:
        return False
    solver = EntrySolver.of(space_costs(space, model, training, times), model)
    entries = OpenEntries.of(solver)
    plain = entries.among(space.plain)  # other schedules keep more alive
    tried = plain if next(plain.ascending(), None) is not None else entries
    return any(solver.solve(entry, 0.0, np.inf).solved is not None for entry in islice(tried.ascending(), _TRIES))


def lacking_bytes(costs: SpaceCosts, model: ModelSpec, among: Array) -> float:
    """Return the device bytes that the closest plan among the entries (N,) lacks.

    The result is 0 where something else binds: the host's memory, or the schedule.
    """
    found = _nearest(costs, model, among)
    return 0.0 if found is None else max(0.0, (found[1].device_share - 1) * costs.entry(found[0]).room_bytes)


def _nearest(costs: SpaceCosts, model: ModelSpec, among: Array | None = None) -> tuple[int, LeastMemory] | None:
    """Return the entry that comes closest to fitting, with its least memory, or None where all entries have several stages
    on a rank.

    Only the smallest microbatch of each mesh, ZeRO stage and optimizer placement is tried, and whole backwards before split ones.
    """
    space, solver = costs.space, EntrySolver.of(costs, model)
    smallest: dict[tuple[float, ...], int] = {}
    sizes = space.column("micro_batch") * 10000 + space.splits * 5000 + space.stages_per_rank
    columns = [space.column(name) for name in (*AXES, "zero_stage", "offload_optimizer")]
    for entry in np.argsort(-sizes, kind="stable"):
        if among is not None and not among[entry]:
            continue
        smallest[tuple(float(column[entry]) for column in columns)] = int(entry)
    costs.rows[space.base_index[list(smallest.values())]]  # all at once
    found = [
        (entry, least_memory(costs.entry(entry), solver.ranges, solver.allowed_of(entry)))
        for entry in smallest.values()
        if space.stages_per_rank[entry] == 1 and solver.given is None
    ]
    return min(found, key=lambda pair: pair[1].share, default=None)


def _what_binds(
    model: ModelSpec,
    cluster: ClusterSpec,
    training: TrainingSpec,
    times: OpTimes,
    space: Space,
    entry: int,
    least: LeastMemory,
) -> str:
    plan = plan_of(Solved(entry, least.layers, least.mix, np.inf), space, model)
    estimate = estimate_plan(model, cluster, training, plan, times)
    node = times.node
    shown = f"{plan.mesh}, ZeRO-{plan.zero_stage}, micro batch {plan.micro_batch}"
    if least.host_share > least.device_share:
        share, need = host_share_bytes(node), max(estimate.host_bytes)
        return (
            f"no plan fits the host memory: the one that comes closest ({shown}, optimizer on the host) needs "
            f"{need / GIB:.1f} GiB of it for each device and has {share / GIB:.1f} usable, {(need - share) / GIB:.1f} GiB too much"
        )
    rank = max(range(len(estimate.memory)), key=lambda index: estimate.memory[index].total)
    parts = estimate.memory[rank]
    name, size = max(parts, key=lambda part: part[1])
    have = usable_bytes(node.device, times.constants)
    return (
        f"no plan fits the device memory: the one that comes closest ({shown}) needs {parts.total / GIB:.1f} GiB on "
        f"{estimate.rank_name(rank)}, {size / GIB:.1f} of it {name.replace('_', ' ')}, and {node.device.name} has "
        f"{have / GIB:.1f} usable, {(parts.total - have) / GIB:.1f} GiB too much"
    )


@dataclass(frozen=True)
class Change:
    """One change of the request that makes some plan fit."""

    text: str
    cluster: ClusterSpec
    training: TrainingSpec
    fixed: Fixed


def what_would_fit(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed, times: OpTimes
) -> Iterator[Change]:
    """Yield single changes that make a plan fit, cheapest for the user first, each the smallest of its kind tried."""
    for choice in dict.fromkeys(limit.choice for limit in fixed.within):
        wider = kept_by(fixed.without_limit(choice), training)
        if fits(model, cluster, training, wider, times):
            limits = " and ".join(str(limit) for limit in fixed.within if limit.choice == choice)
            yield Change(f"no limit to {limits}", cluster, training, wider)
    for name, value in fixed:
        if name in ("within", "approximate"):
            continue
        freed = kept_by(fixed.but(**{"stages": None, name: None}), training)  # stages contain these choices too
        if value is not None and fits(model, cluster, training, freed, times):
            shown = f"{value:g}" if isinstance(value, float) else value
            yield Change(f"{name} other than {shown}", cluster, training, freed)
    offload = fixed.with_offload()
    moves = offload != fixed and cluster.node.device.has_own_memory and training.software.runs.offload_optimizer
    if moves and any(fits(model, cluster, training, more, times) for more in last_resorts(offload)):
        yield Change("--offload", cluster, training, offload)
    length = training.seq_len // 2
    while length >= _SHORTEST_SEQUENCE:
        shorter = training.model_copy(update={"seq_len": length})
        if fits(model, cluster, shorter, fixed, op_times(cluster, shorter, times.constants)):
            yield Change(f"a sequence length of {length}", cluster, shorter, fixed)
            break
        length //= 2
    for doubling in range(1, _MOST_DOUBLINGS + 1):
        more = _times_nodes(cluster, 2**doubling)
        if fits(model, more, training, fixed, op_times(more, training, times.constants)):
            yield Change(f"{more.devices} devices of this kind", more, training, fixed)
            break


def _times_nodes(cluster: ClusterSpec, factor: int) -> ClusterSpec:
    """Return the cluster with `factor` times as many nodes."""
    groups = tuple(group.model_copy(update={"nodes": group.nodes * factor}) for group in cluster.groups)
    return cluster.model_copy(update={"groups": groups})
