"""The neighbours of a plan: the best plan with one choice changed and everything else free.

The cost of a neighbour is what `search` finds with that choice fixed, so no comparison misleads. The entries of a
neighbour are part of the space that the plan was searched in. That space is enumerated, priced and bounded once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from shardwright.base import Array, SpecError
from shardwright.costmodel.op_times import OpTimes
from shardwright.planner.branching import BranchAndBound, lacking_bytes
from shardwright.planner.space import Fixed, Space, kept_by
from shardwright.planner.stages import plan_of
from shardwright.specs import CHOICES, ClusterSpec, Estimate, Mesh, MeshOrder, Plan, TrainingSpec
from shardwright.specs.model import ModelSpec

# This limits work, not time, so that repeated runs print the same numbers.
_MOST_SOLVED = 64
# Of the schedules that split the backward, one with a stage on each rank and one with two.
_SPLIT = ("zb-h1", "zb-v")
_NUMBER_OF = {choice.name: choice.number for choice in CHOICES}


@dataclass(frozen=True)
class Alternative:
    """The result of one other choice.

    Attributes:
        change: the choice in words.
        fixed: the choices that `search` must keep to find the same plan.
        plan, estimate: the best plan with this choice; None where none fits or divides.
        lacking_bytes: device bytes that the closest plan lacks, where none fits.
        divides: whether any plan with this choice divides model, batch and cluster.
        complete: False where the search was cut short, so that a better plan with this choice may exist.
    """

    change: str
    fixed: Fixed
    plan: Plan | None = None
    estimate: Estimate | None = None
    lacking_bytes: float = 0.0
    divides: bool = True
    complete: bool = True


def alternatives(
    plan: Plan,
    model: ModelSpec,
    cluster: ClusterSpec,
    training: TrainingSpec,
    times: OpTimes,
    *,
    fixed: Fixed | None = None,
    most_solved: int = _MOST_SOLVED,
) -> Iterator[Alternative]:
    """Yield each neighbour that divides, and FSDP alone whether or not it divides.

    The choices in `fixed` stay, except the one that changes, and no change leaves its limits (`Fixed.within`). A neighbour's search ends when `most_solved` combinations
    are solved; it is then marked as not complete.
    """
    searches: dict[str, BranchAndBound] = {}
    model = model.trained_as(training.trainable)
    fixed = _kept(plan, fixed or Fixed(), training)
    for change in _changes(plan, cluster, training, fixed):
        if not fixed.permits(change.values):
            continue
        try:
            if str(change.start) not in searches:
                searches[str(change.start)] = BranchAndBound.start(model, cluster, training, change.start, times)
        except SpecError:
            continue
        whole = searches[str(change.start)]
        entries = _mask(whole.space, change.values)
        if entries.any():
            run = whole.among(entries)
            run.run(most_solved=most_solved)
            yield _found(change, run, entries, model, cluster, training)
        elif change.always:
            yield Alternative(change.words, change.fixed, divides=False)


def _kept(plan: Plan, fixed: Fixed, training: TrainingSpec) -> Fixed:
    """What every neighbour keeps: also the order of the axes, where the software has several."""
    kept = kept_by(fixed, training)
    several = len(training.software.runs.orders) > 1 and kept.order is None
    return kept.but(order=plan.mesh.order) if several else kept


def _found(
    change: "_Change",
    run: BranchAndBound,
    entries: Array,
    model: ModelSpec,
    cluster: ClusterSpec,
    training: TrainingSpec,
) -> Alternative:
    if run.best is None:
        return Alternative(change.words, change.fixed, lacking_bytes=lacking_bytes(run.solver.costs, model, entries))
    plan = plan_of(run.best, run.space, model)
    return Alternative(
        change.words, change.fixed, plan, run.estimate(model, cluster, training, plan), complete=run.complete
    )


@dataclass(frozen=True)
class _Change:
    """One choice, or a few that belong together, with another value.

    `start`: the other choices that the space keeps. `always`: report the change even where it does not divide.
    """

    words: str
    start: Fixed
    values: dict[str, Any]
    always: bool = False

    @property
    def fixed(self) -> Fixed:
        return self.start.but(**self.values)


def _mask(space: Space, values: dict[str, Any]) -> Array:
    """(N,): whether an entry of the space has these values."""
    mask = np.ones(len(space), dtype=bool)
    for name, value in values.items():
        mask &= space.column(name) == _NUMBER_OF[name](value)
    return mask


def _changes(plan: Plan, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed) -> Iterator[_Change]:
    """Yield the changes in the order in which users ask about them."""

    def change(words: str, *, always: bool = False, **values: Any) -> _Change:
        free = fixed.but(**dict.fromkeys(values), stages=None)
        return _Change(words, free, values, always)

    mesh, node = plan.mesh, cluster.node
    most_of = {"tp": node.devices_per_node, "pp": cluster.devices, "cp": cluster.devices, "ep": cluster.devices}
    for axis, most in most_of.items():
        degree = getattr(mesh, axis)
        near = [other for other in (degree * 2, degree // 2) if 0 < other <= most]
        yield from (change(f"{axis} {other} instead of {degree}", **{axis: other}) for other in near)
    for order in _other_orders(mesh, cluster, training):
        yield _Change(f"order {order} instead of {mesh.order}", fixed.but(order=order, stages=None), {})
    for stage in {1, 2, 3} - {plan.zero_stage}:
        yield change(f"ZeRO-{stage} instead of ZeRO-{plan.zero_stage}", zero_stage=stage)
    for size in {plan.micro_batch * 2, plan.micro_batch // 2} - {0}:
        yield change(f"micro batch {size} instead of {plan.micro_batch}", micro_batch=size)
    recomputes = any(run.recompute != "none" for stage in plan.stages for run in stage.layers)
    if recomputes and fixed.permits({"recompute": "none"}):
        yield _Change("no recomputation", fixed.but(recompute="none", stages=None), {})
    if node.device.has_own_memory:
        share = plan.offload.optimizer_fraction
        for where, other in (("on the device", 0), ("on the host", 1)):
            if share != other:
                yield change(f"the optimizer {where}", offload_optimizer=other)
    if mesh.pp > 1:
        yield from (change(words, **values) for words, values in _pipeline_changes(plan, training))
    shards = cluster.devices // (fixed.cp or 1)
    alone = {"pp": 1, "tp": 1, "cp": fixed.cp or 1, "ep": fixed.ep or 1, "dp_shard": shards, "zero_stage": 3}
    mine = {axis: getattr(mesh, axis) for axis in ("pp", "tp", "cp", "ep", "dp_shard")} | {
        "zero_stage": plan.zero_stage
    }
    if shards > 1 and mine != alone:
        yield change(f"FSDP alone (dp_shard{shards}, ZeRO-3)", always=True, **alone)


def _pipeline_changes(plan: Plan, training: TrainingSpec) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield other schedules, and the vocabulary elsewhere, in words and as values."""
    others = ("1f1b" if plan.schedule != "1f1b" else "interleaved-1f1b", *_SPLIT)
    for schedule in (name for name in others if name != plan.schedule):
        yield f"schedule {schedule} instead of {plan.schedule}", {"schedule": schedule}
    if plan.vocabulary_parallel != "none":
        yield "embedding and head on one rank each", {"vocabulary_parallel": "none", "schedule": plan.schedule}
    elif kinds := training.software.runs.vocabulary_parallel:
        yield f"embedding and head split over the pipeline ({kinds[-1]})", {"vocabulary_parallel": kinds[-1]}


def _other_orders(mesh: Mesh, cluster: ClusterSpec, training: TrainingSpec) -> list[MeshOrder]:
    """The orders of the axes that the software runs, where they may lie otherwise on this machine."""
    matters = mesh.pp > 1 and mesh.dp > 1 and mesh.cp * mesh.tp < cluster.node.devices_per_node < cluster.devices
    return [order for order in training.software.runs.orders if matters and order != mesh.order]
