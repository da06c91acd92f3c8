"""One entry of the space solved: its best stages, and the plan that they make."""

from dataclasses import dataclass

import numpy as np

from ..costmodel.candidates import IntArray
from ..costmodel.model import ModelSpec
from ..costmodel.plan import LayerRun, Mesh, Offload, Plan, Stage
from ..costmodel.tables import POLICIES
from .interleaved import InterleavedSearch
from .layer_ranges import LayerRanges
from .partition import best_partition
from .space import Space
from .space_costs import SpaceCosts
from .stage_tables import stage_tables

# An even interleaved plan that is further from the best than this is not worth moving layers in.
_IMPROVE_WITHIN = 1.02


@dataclass(frozen=True)
class Solved:
    """The best stages found for an entry: layers (S,) and mixes (S, classes, policies); no plan of it beats the bound."""

    entry: int
    layers: tuple[int, ...]
    mix: IntArray
    step_seconds: float
    bound_seconds: float


def solve_entry(
    costs: SpaceCosts, ranges: LayerRanges, allowed: list[int], entry: int, bound_seconds: float, limit_seconds: float
) -> Solved | None:
    """The entry's best plan if it takes less than `limit_seconds`, else None; `bound_seconds` is known of the entry.

    None means that nothing below the limit exists, except for an interleaved entry that is too large to try all of.
    """
    one = costs.entry(entry)
    if one.schedule == "interleaved-1f1b":
        search = InterleavedSearch(one, ranges, allowed)
        plan, exhaustive = search.exhaustive(), True
        if plan is None:
            plan, exhaustive = search.family(), False
        if plan is not None and not exhaustive and plan.step_seconds < limit_seconds * _IMPROVE_WITHIN:
            plan = search.improved(plan)
        if plan is None or plan.step_seconds >= limit_seconds:
            return None
        bound = plan.step_seconds if exhaustive else min(bound_seconds, plan.step_seconds)
        return Solved(entry, plan.layers, plan.mix, plan.step_seconds, bound)
    tables = stage_tables(one, ranges, allowed)
    partition = best_partition(tables, limit_seconds)
    if partition is None or partition.step_seconds >= limit_seconds:
        return None
    kinds = ranges.kinds(np.array(partition.layers))
    mix = tables.mix[np.arange(one.pp), kinds]
    bound = max(partition.bound_seconds, min(bound_seconds, partition.step_seconds))
    return Solved(entry, partition.layers, mix, partition.step_seconds, bound)


def plan_of(solved: Solved, space: Space, model: ModelSpec) -> Plan:
    """The plan of an entry's stages. Within a class the layers that recompute most come first."""
    base = space.base[int(space.base_index[solved.entry])]
    degrees = {name: int(getattr(base, name)[0]) for name in ("pp", "dp_replicate", "dp_shard", "tp")}
    zero_stage = int(base.zero_stage[0])
    classes = iter(model.class_of_layer)
    stages = []
    for count, mix in zip(solved.layers, solved.mix, strict=True):
        left = mix.copy()
        policies = []
        for _ in range(count):
            kind = next(classes)
            policy = int(np.flatnonzero(left[kind])[-1])
            left[kind, policy] -= 1
            policies.append(policy)
        stages.append(Stage(layers=tuple(_runs(policies, zero_stage))))
    return Plan(
        mesh=Mesh(**degrees),
        micro_batch=int(base.micro_batch[0]),
        microbatches=int(base.microbatches[0]),
        schedule=space.schedule_name(solved.entry),
        stages=tuple(stages),
        sequence_parallel=bool(base.sequence_parallel[0]),
        offload=Offload(optimizer_fraction=int(base.host_optimizer[0])),
    )


def _runs(policies: list[int], zero_stage: int) -> list[LayerRun]:
    runs: list[tuple[int, int]] = []
    for policy in policies:
        if runs and runs[-1][0] == policy:
            runs[-1] = (policy, runs[-1][1] + 1)
        else:
            runs.append((policy, 1))
    return [LayerRun(count=count, recompute=POLICIES[policy], zero_stage=zero_stage) for policy, count in runs]
