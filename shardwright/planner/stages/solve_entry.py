"""The solution of one entry of the space: its best stages, and their plan."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Self

import numpy as np

from shardwright.base import IntArray
from shardwright.costmodel.tables import layer_mixes
from shardwright.planner.mixes import OffloadMixSolver, allowed_strategies
from shardwright.planner.space import EntryCosts, LayerRanges, Space, SpaceCosts, layer_ranges
from shardwright.specs import (
    AXES,
    CONTEXT_PARALLEL,
    EXPERT_DISPATCH,
    ORDERS,
    LayerRun,
    Mesh,
    Offload,
    Plan,
    ScheduleName,
    Stage,
    Strategy,
    splits_backward,
)
from shardwright.specs.model import ModelSpec

from .critical_paths import CriticalPaths
from .every_plan import best_of_all, is_small
from .near_even import NearEven
from .offload_partition import OffloadPartition
from .partition import best_partition
from .split_partition import best_split_partition
from .staged_entry import StagedEntry, StagedPlan
from .tables import mix_solver, stage_tables


@dataclass(frozen=True)
class Solved:
    """The best stages found for an entry: layers (S,), mixes (S, classes, policies), and their step."""

    entry: int
    layers: tuple[int, ...]
    mix: IntArray
    step_seconds: float


@dataclass(frozen=True)
class Outcome:
    """The result of an entry: a plan below the limit, if one was found, and a lower
    bound on all its plans below that limit."""

    solved: Solved | None
    bound_seconds: float


@dataclass(frozen=True)
class EntrySolver:
    """Solves entries of one space. `given` (S, classes, policies): the mixes of the stages, where stages are fixed."""

    costs: SpaceCosts
    ranges: LayerRanges
    allowed: list[int]
    given: IntArray | None = None
    paths: dict[tuple[ScheduleName, int, int, int], CriticalPaths] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, costs: SpaceCosts, model: ModelSpec) -> Self:
        """Return the solver for the choices that the space has fixed."""
        fixed = costs.space.fixed
        given = None if fixed.stages is None else layer_mixes(model, fixed.stages)[0]
        return cls(costs, layer_ranges(model), allowed_strategies(fixed, costs.space.strategies), given)

    def allowed_of(self, entry: int) -> list[int]:
        """Return the strategies that an entry's layers may use; its schedule may limit them."""
        space = self.costs.space
        return space.runs(
            self.allowed, splits=bool(space.splits[entry]), several=bool(space.stages_per_rank[entry] > 1)
        )

    def solve(self, entry: int, bound_seconds: float, limit_seconds: float) -> Outcome:
        """Return the entry's best plan if it takes less than `limit_seconds`;
        `bound_seconds` is its known lower bound."""
        one = self.costs.entry(entry)
        if self.given is not None:
            return self._given(one, entry, self.given, limit_seconds)
        staged, allowed = StagedEntry(one, self.ranges), self.allowed_of(entry)
        offloads = self._offloads(one, allowed)
        if (one.pp > 1 or offloads) and is_small(staged, allowed):
            plan = best_of_all(staged, allowed)
            return Outcome(None, np.inf) if plan is None else _outcome(entry, plan, plan.step_seconds, limit_seconds)
        if one.stages_per_rank > 1:
            plan, bound = NearEven(one, self.ranges, allowed, self._paths_of(one)).best(limit_seconds)
            bound = max(bound, bound_seconds)
            return Outcome(None, bound) if plan is None else _outcome(entry, plan, bound, limit_seconds)
        if offloads:
            return self._offloaded(one, entry, allowed, bound_seconds, limit_seconds)
        tables = stage_tables(one, self.ranges, allowed)
        if splits_backward(one.schedule):
            partition = best_split_partition(tables, bound_seconds, limit_seconds, self._paths_of(one))
        else:
            partition = best_partition(tables, limit_seconds, self._paths_of(one))
        if partition is None:
            return Outcome(None, np.inf)
        mix = tables.mix[np.arange(one.pp), self.ranges.kinds(np.array(partition.layers))]
        plan = StagedPlan(partition.layers, mix, partition.step_seconds)
        bound = max(partition.bound_seconds, min(bound_seconds, partition.step_seconds))
        return _outcome(entry, plan, bound, limit_seconds)

    def _offloads(self, one: EntryCosts, allowed: list[int]) -> bool:
        return one.stages_per_rank == 1 and isinstance(mix_solver(one, allowed), OffloadMixSolver)

    def _offloaded(
        self, one: EntryCosts, entry: int, allowed: list[int], bound_seconds: float, limit_seconds: float
    ) -> Outcome:
        """Solve an entry whose activations may go to the host."""
        found, mix, bound = OffloadPartition(one, self.ranges, allowed, self._paths_of(one)).best(limit_seconds)
        if found is None or mix is None:
            return Outcome(None, max(bound, bound_seconds))
        bound = max(bound, min(bound_seconds, found.step_seconds))
        return _outcome(entry, StagedPlan(found.layers, mix, found.step_seconds), bound, limit_seconds)

    def _given(self, one: EntryCosts, entry: int, mix: IntArray, limit_seconds: float) -> Outcome:
        """Evaluate the fixed stages, under any schedule."""
        staged = StagedEntry(one, self.ranges)
        if not staged.ranks_fit(mix[None]).all():
            return Outcome(None, np.inf)
        seconds = float(staged.seconds(mix[None])[0])
        return _outcome(entry, StagedPlan(tuple(mix.sum(axis=(1, 2)).tolist()), mix, seconds), seconds, limit_seconds)

    def _paths_of(self, one: EntryCosts) -> CriticalPaths:
        """The critical paths that are known of an entry's shape."""
        shape = one.schedule, one.pp, one.stages_per_rank, one.microbatches
        if shape not in self.paths:
            self.paths[shape] = CriticalPaths.of(*shape)
        return self.paths[shape]


def _outcome(entry: int, plan: StagedPlan, bound_seconds: float, limit_seconds: float) -> Outcome:
    kept = Solved(entry, plan.layers, plan.mix, plan.step_seconds) if plan.step_seconds < limit_seconds else None
    return Outcome(kept, bound_seconds)


def plan_of(solved: Solved, space: Space, model: ModelSpec) -> Plan:
    """Return the plan of an entry's stages. Within a class the layers that recompute most come first."""
    base = space.base[int(space.base_index[solved.entry])]
    degrees = {name: int(getattr(base, name)[0]) for name in AXES}
    return Plan(
        mesh=Mesh(**degrees, order=ORDERS[int(base.order[0])]),
        micro_batch=int(base.micro_batch[0]),
        microbatches=int(base.microbatches[0]),
        schedule=space.schedule_name(solved.entry),
        vocabulary_parallel=space.vocabulary_name(solved.entry),
        stages=space.fixed.stages or _stages(solved, model, int(base.zero_stage[0]), space.strategies),
        sequence_parallel=bool(base.sequence_parallel[0]),
        context_parallel=CONTEXT_PARALLEL[int(base.context_parallel[0])],
        ulysses_degree=int(base.ulysses_degree[0]),
        expert_dispatch=EXPERT_DISPATCH[int(base.expert_dispatch[0])],
        offload=Offload(
            optimizer_fraction=float(base.offload_optimizer[0]),
            gradient_fraction=float(base.offload_gradients[0]),
            parameter_fraction=float(base.offload_parameters[0]),
            nvme_fraction=float(base.offload_nvme[0]),
            delayed_update=bool(base.delayed_update[0]),
        ),
        sync=space.sync_of(base),
    )


def _stages(solved: Solved, model: ModelSpec, zero_stage: int, strategies: Sequence[Strategy]) -> tuple[Stage, ...]:
    classes = iter(model.class_of_layer)
    stages = []
    for count, mix in zip(solved.layers, solved.mix, strict=True):
        left = mix.copy()
        chosen = []
        for _ in range(count):
            kind = next(classes)
            index = int(np.flatnonzero(left[kind])[-1])
            left[kind, index] -= 1
            chosen.append(strategies[index])
        stages.append(Stage(layers=tuple(_runs(chosen, zero_stage))))
    return tuple(stages)


def _runs(chosen: list[Strategy], zero_stage: int) -> list[LayerRun]:
    runs = [(one, len(list(same))) for one, same in groupby(chosen)]
    return [LayerRun(count=count, zero_stage=zero_stage, **one._asdict()) for one, count in runs]
