"""One entry of an arrangement solved: the best partition of the layers, each stage by the costs of its own rank's group."""

from dataclasses import dataclass, fields

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.costmodel.pipeline import step_seconds
from shardwright.costmodel.tables import RowCosts, StageSeconds, layer_mixes, stage_seconds
from shardwright.planner.space import EntryCosts, layer_ranges
from shardwright.planner.stages import (
    CriticalPaths,
    Solved,
    StagedEntry,
    StagedPlan,
    StageTables,
    best_of_all,
    best_partition,
    is_small,
    stage_tables,
)

from .arrangement import Arrangement, Entry


@dataclass(frozen=True)
class MixedStages(StagedEntry):
    """A staged entry whose ranks have costs of their own, `each` (pp). `entry` holds the least of all."""

    each: tuple[EntryCosts, ...] = ()

    @property
    def priced(self) -> list[RowCosts]:
        return [costs.rows for costs in {id(costs): costs for costs in self.each}.values()]

    def fits(self, rank: int, counts: IntArray, mixes: IntArray) -> Array:
        """(T,): as in `StagedEntry`, in the memory of the rank's own device."""
        return StagedEntry(self.each[rank], self.ranges).fits(rank, counts, mixes)

    def seconds(self, mixes: IntArray) -> Array:
        """(B,): as in `StagedEntry`."""
        entry, rows = self.entry, RowCosts.joined([costs.rows for costs in self.each], np.stack)
        seconds = stage_seconds(rows, mixes.astype(float), entry.ends)
        costs = seconds.costs(entry.schedule, entry.pp, entry.sends)
        return step_seconds(entry.schedule, costs, entry.microbatches)


def mixed_tables(entry: Entry, stages: MixedStages, allowed: list[int]) -> StageTables:
    """Build the tables of an entry: the positions of each group from the tables of that group."""
    alone = {id(costs): stage_tables(costs, stages.ranges, allowed) for costs in entry.ranks}
    of_rank = [alone[id(costs)] for costs in entry.ranks]

    def placed(parts: list[Array]) -> Array:
        return np.stack([part[rank] for rank, part in enumerate(parts)])

    seconds = {
        each.name: placed([getattr(tables.seconds, each.name) for tables in of_rank]) for each in fields(StageSeconds)
    }
    return StageTables(
        entry=entry.least,
        ranges=stages.ranges,
        seconds=StageSeconds(**seconds),
        shortest_tail=placed([tables.shortest_tail for tables in of_rank]),
        least_both=placed([tables.least_both for tables in of_rank]),
        mix=placed([tables.mix for tables in of_rank]),
    )


def solve(
    arrangement: Arrangement, number: int, limit_seconds: float, paths: dict[tuple[object, ...], CriticalPaths]
) -> tuple[Solved | None, float]:
    """Return the best plan of entry `number` below the limit, if there is one, and a lower bound on all its plans."""
    entry, space = arrangement.entry(number), arrangement.space
    stages = MixedStages(entry.least, layer_ranges(arrangement.model), entry.ranks)
    fixed, allowed = space.fixed, arrangement.allowed
    if fixed.stages is not None:
        return _given(number, stages, layer_mixes(arrangement.model, fixed.stages)[0], limit_seconds)
    if is_small(stages, allowed):
        plan = best_of_all(stages, allowed)
        return _solved(number, plan, limit_seconds), np.inf if plan is None else plan.step_seconds
    least = entry.least
    shape = (least.schedule, least.pp, 1, least.microbatches)
    known = paths.setdefault(shape, CriticalPaths.of(least.schedule, least.pp, 1, least.microbatches))
    tables = mixed_tables(entry, stages, allowed)
    found = best_partition(tables, limit_seconds, known)
    if found is None:
        return None, np.inf
    mix = tables.mix[np.arange(least.pp), stages.ranges.kinds(np.array(found.layers))]
    return _solved(number, StagedPlan(found.layers, mix, found.step_seconds), limit_seconds), found.bound_seconds


def _given(number: int, stages: MixedStages, mix: IntArray, limit_seconds: float) -> tuple[Solved | None, float]:
    """Evaluate the stages that are fixed."""
    counts = mix.sum(axis=-1)
    fit = all(stages.fits(rank, counts[rank][None], mix[None, rank][:, None])[0] for rank in range(len(mix)))
    if not fit:
        return None, np.inf
    plan = StagedPlan(tuple(counts.sum(axis=-1).tolist()), mix, float(stages.seconds(mix[None])[0]))
    return _solved(number, plan, limit_seconds), plan.step_seconds


def _solved(number: int, plan: StagedPlan | None, limit_seconds: float) -> Solved | None:
    if plan is None or plan.step_seconds >= limit_seconds:
        return None
    return Solved(number, plan.layers, plan.mix, plan.step_seconds)
