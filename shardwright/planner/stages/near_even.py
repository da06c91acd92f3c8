"""Several stages on a rank, interleaved or in a V: the best of all near-even partitions, with each rank's cheapest recompute mix.

Critical paths rule partitions out, first without recompute and then with it. The others are evaluated.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from shardwright.base import IntArray
from shardwright.costmodel.pipeline import StageCosts
from shardwright.costmodel.tables import Rows, stage_seconds
from shardwright.planner.space import EntryCosts, LayerRanges, near_even_sizes

from .critical_paths import CLOSED, CriticalPaths
from .rank_mixes import RankMixes
from .staged_entry import StagedEntry, StagedPlan

_MIXED_AT_ONCE = 2048
_MOST_ROUNDS = 16


@dataclass(frozen=True)
class NearEven:
    """The near-even partitions of an entry. `paths` are those known of its shape; the search adds others."""

    entry: EntryCosts
    ranges: LayerRanges
    allowed: list[int]
    paths: CriticalPaths

    def best(self, limit_seconds: float) -> tuple[StagedPlan | None, float]:
        """Return the best plan below `limit_seconds`, if one was found, and a lower bound on all of these."""
        layers, entry = self.ranges.layer_count, self.entry
        sizes = near_even_sizes(layers, entry.pp, entry.stages_per_rank, entry.even_stages)
        bounds = self.paths.bounds(self._without_recompute(sizes))
        left = np.ones(len(sizes), dtype=bool)
        plan, limit, bound = None, limit_seconds, np.inf
        for _ in range(_MOST_ROUNDS):
            below = np.where(left, bounds.seconds(), np.inf)
            order = np.argsort(below, kind="stable")[:_MIXED_AT_ONCE]
            near = order[below[order] < limit]
            if not len(near):
                break
            left[near] = False
            found, of_these = self._fastest(sizes[near], limit)
            bound = min(bound, of_these)
            if found is not None:
                plan, limit = found, found.step_seconds * (1 - CLOSED)
        return plan, min(bound, float(np.where(left, below, np.inf).min()))

    @cached_property
    def _mixes(self) -> RankMixes:
        return RankMixes(StagedEntry(self.entry, self.ranges), self.allowed)

    def _without_recompute(self, sizes: IntArray) -> StageCosts:
        """Return lower bounds on the costs of partitions (B, S): each layer under its fastest policy, and the shortest tails."""
        rows, counts, ends = self.entry.rows, self.ranges.held(sizes), self.entry.ends
        tails = rows.last_backward
        least = Rows(tails.layers[:, self.allowed].min(axis=1), tails.first, tails.last)
        seconds = replace(stage_seconds(rows, self._mixes.fastest(counts), ends), reduce_tail=least.total(counts, ends))
        return seconds.costs(self.entry.schedule, self.entry.pp, rows.send[..., None])

    def _fastest(self, sizes: IntArray, limit_seconds: float) -> tuple[StagedPlan | None, float]:
        """Return the best plan below the limit among partitions (B, S) with their mixes, and a lower bound on these."""
        fits, mixes = self._mixes.of_partitions(self.ranges.held(sizes))
        if not fits.any():
            return None, np.inf
        sizes, mixes = sizes[fits], mixes[fits]
        seconds = stage_seconds(self.entry.rows, mixes, self.entry.ends)
        costs = seconds.costs(self.entry.schedule, self.entry.pp, self.entry.sends)
        best, step, bound = self.paths.fastest(costs, limit_seconds)
        return StagedPlan(tuple(sizes[best].tolist()), mixes[best], step) if step < limit_seconds else None, bound
