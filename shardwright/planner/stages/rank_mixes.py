"""Recompute mixes of ranks that hold several stages, which share one memory.

A rank changes the policy of its layers chunk by chunk, the chunk with most microbatches alive first, because a layer frees
most there. The cheapest change that fits is taken.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np

from shardwright.base import Array, IntArray, distinct

from .staged_entry import StagedEntry
from .tables import mix_solver


@dataclass(frozen=True)
class RankMixes:
    """The mixes of one entry's ranks. `counts` (chunks, classes) are the layers of a rank."""

    staged: StagedEntry
    allowed: list[int]

    def of_partitions(self, counts: IntArray) -> tuple[Array, IntArray]:
        """Return which partitions (B,) with `counts` (B, S, classes) fit, and their mixes (B, S, classes, policies)."""
        mixes = self.fastest(counts)
        fits = self.staged.ranks_fit(mixes)
        over, ranks = np.nonzero(~fits)
        if len(over):
            stages = self.staged.stages[ranks]
            first, place = distinct([ranks, *counts[over[:, None], stages].reshape(len(over), -1).T])
            found, mixed = self._cheapest(ranks[first], counts[over[first, None], stages[first]])
            fits[over, ranks] = found[place]
            mixes[over[:, None], stages] = mixed[place]
        return np.asarray(fits.all(axis=1)), mixes

    def fastest(self, counts: IntArray) -> IntArray:
        """Return mixes (..., classes, policies) of `counts` (..., classes) with each layer under its fastest policy."""
        rows = self.staged.entry.rows
        fastest = np.array(self.allowed)[rows.backward.layers[:, self.allowed].argmin(axis=1)]
        mixes = np.zeros((*counts.shape, rows.policies), dtype=np.int64)
        mixes[..., np.arange(rows.classes), fastest] = counts
        return mixes

    def _cheapest(self, ranks: IntArray, counts: IntArray) -> tuple[Array, IntArray]:
        """Return for ranks (D,) with `counts` (D, chunks, classes) whether a mix of two policies fits, and the cheapest that does."""
        pairs = [*combinations(self._useful, 2)] or [(self._useful[0], self._useful[0])]
        mixes = np.concatenate([self._changing(ranks, counts, first, second) for first, second in pairs], axis=1)
        seconds = np.einsum("dtckp,kp->dt", mixes, self.staged.entry.rows.backward.layers)
        seconds = np.where(self.staged.each_fits(ranks, counts, mixes), seconds, np.inf)
        best = seconds.argmin(axis=1)
        each = np.arange(len(ranks))
        return np.isfinite(seconds[each, best]), mixes[each, best]

    @cached_property
    def _useful(self) -> list[int]:
        """The policies that some class may need, cheapest first."""
        useful = mix_solver(self.staged.entry, self.allowed).useful.any(axis=0)
        cost = self.staged.entry.rows.backward.layers.sum(axis=0)
        return sorted((int(policy) for policy in np.flatnonzero(useful)), key=lambda policy: float(cost[policy]))

    def _changing(self, ranks: IntArray, counts: IntArray, first: int, second: int) -> IntArray:
        """(D, T, chunks, classes, policies): mixes with 0, 1, ... layers changed from policy `first` to `second`."""
        order = np.argsort(-self.staged.alive[ranks].max(axis=1), axis=1, kind="stable")[..., None]
        ordered = np.take_along_axis(counts, order, axis=1).reshape(len(counts), -1)
        before = (np.cumsum(ordered, axis=1) - ordered)[:, None]
        steps = np.arange(int(ordered.sum(axis=1).max()) + 1 if first != second else 1)
        changed = np.clip(steps[:, None] - before, 0, ordered[:, None]).reshape(
            len(counts), len(steps), *counts.shape[1:]
        )
        changed = np.take_along_axis(changed, np.argsort(order, axis=1)[:, None], axis=2)
        mixes = np.zeros((*changed.shape, self.staged.entry.rows.policies), dtype=np.int64)
        mixes[..., first] += counts[:, None] - changed
        mixes[..., second] += changed
        return mixes
