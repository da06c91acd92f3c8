"""Recompute mixes of ranks that hold several stages, which share one memory.

A rank changes the policy of its layers chunk by chunk, the chunk with most microbatches alive first, because a layer frees
most there. The cheapest change that fits is taken.
"""

from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations

import numpy as np

from shardwright.base import Array, IntArray

from .staged_entry import StagedEntry
from .tables import mix_solver


@dataclass(frozen=True)
class RankMixes:
    """The mixes of one entry's ranks. `counts` (chunks, classes) are the layers of a rank."""

    staged: StagedEntry
    allowed: list[int]
    _found: dict[tuple[int, bytes], IntArray | None] = field(default_factory=dict, repr=False)

    def of_partitions(self, counts: IntArray) -> tuple[Array, IntArray]:
        """Return which partitions (B,) with `counts` (B, S, classes) fit, and their mixes (B, S, classes, policies)."""
        mixes = self.fastest(counts)
        fits = self.staged.ranks_fit(mixes)
        for rank in np.flatnonzero(~fits.all(axis=0)):
            stages, over = self.staged.stages[rank], np.flatnonzero(~fits[:, rank])
            distinct, place = np.unique(counts[over][:, stages], axis=0, return_inverse=True)
            found = [self._cheapest(int(rank), held) for held in distinct]
            fits[over, rank] = np.array([mix is not None for mix in found])[place.reshape(-1)]
            of_rank = np.stack([np.zeros_like(mixes[0, stages]) if mix is None else mix for mix in found])
            mixes[over[:, None], stages] = of_rank[place.reshape(-1)]
        return np.asarray(fits.all(axis=1)), mixes

    def fastest(self, counts: IntArray) -> IntArray:
        """Return mixes (..., classes, policies) of `counts` (..., classes) with each layer under its fastest policy."""
        rows = self.staged.entry.rows
        fastest = np.array(self.allowed)[rows.backward.layers[:, self.allowed].argmin(axis=1)]
        mixes = np.zeros((*counts.shape, rows.policies), dtype=np.int64)
        mixes[..., np.arange(rows.classes), fastest] = counts
        return mixes

    def _cheapest(self, rank: int, counts: IntArray) -> IntArray | None:
        """Return the cheapest mix (chunks, classes, policies) of two policies that fits, None where none does."""
        key = (rank, counts.tobytes())
        if key not in self._found:
            self._found[key] = self._search(rank, counts)
        return self._found[key]

    def _search(self, rank: int, counts: IntArray) -> IntArray | None:
        pairs = [*combinations(self._useful, 2)] or [(self._useful[0], self._useful[0])]
        mixes = np.concatenate([self._changing(rank, counts, first, second) for first, second in pairs])
        seconds = np.einsum("tckp,kp->t", mixes, self.staged.entry.rows.backward.layers)
        seconds = np.where(self.staged.fits(rank, counts, mixes), seconds, np.inf)
        best = int(seconds.argmin())
        return mixes[best] if np.isfinite(seconds[best]) else None

    @cached_property
    def _useful(self) -> list[int]:
        """The policies that some class may need, cheapest first."""
        useful = mix_solver(self.staged.entry, self.allowed).useful.any(axis=0)
        cost = self.staged.entry.rows.backward.layers.sum(axis=0)
        return sorted((int(policy) for policy in np.flatnonzero(useful)), key=lambda policy: float(cost[policy]))

    def _changing(self, rank: int, counts: IntArray, first: int, second: int) -> IntArray:
        """(T, chunks, classes, policies): mixes with 0, 1, ... layers changed from policy `first` to `second`."""
        cells = [
            (chunk, kind)
            for chunk in np.argsort(-self.staged.alive[rank].max(axis=0), kind="stable")
            for kind in range(counts.shape[1])
            for _ in range(int(counts[chunk, kind]))
        ]
        start = np.zeros((*counts.shape, self.staged.entry.rows.policies), dtype=np.int64)
        start[..., first] = counts
        changes = np.zeros((len(cells) + 1, *start.shape), dtype=np.int64)
        if first != second:
            for step, (chunk, kind) in enumerate(cells, start=1):
                changes[step, chunk, kind, first] -= 1
                changes[step, chunk, kind, second] += 1
        return np.asarray(start + np.cumsum(changes, axis=0))
