"""The peak memory of the fullest pipeline rank where stages are even: of like neighbours only the first can be it.

A rank holds no fewer microbatches than a later one that is like it, so that one rank of each run of like ones is enough.
The parts are those of `PlanCosts.memory`.
"""

from dataclasses import dataclass

import numpy as np

from shardwright.base import FloatArray, IntArray
from shardwright.costmodel.pipeline import alive_counts
from shardwright.specs import ScheduleName

from .stages import alike


@dataclass(frozen=True)
class RowBytes:
    """(R, n) each, as in `CostTables` and `StaticBytes`; `static` is `StaticBytes.stays`."""

    activation: FloatArray
    working: FloatArray
    static: FloatArray
    gather_window: FloatArray
    reduce_buffer: FloatArray
    step: FloatArray


@dataclass(frozen=True)
class _Rank:
    """`held` (R,): its rows. `alive` (moments, R): of how many microbatches it keeps each row, when it keeps most."""

    held: IntArray
    alive: IntArray

    @property
    def rows(self) -> IntArray:
        return np.flatnonzero(self.held)


@dataclass(frozen=True)
class EvenMemory:
    """The ranks that may be the fullest of one shape; `alive` counts each microbatch of the step under GPipe."""

    ranks: list[_Rank]
    keeps_all: bool

    def peak_bytes(self, rows: RowBytes, microbatches: FloatArray, slack: FloatArray) -> FloatArray:
        """(n,) bytes of the fullest rank without what no choice of layers changes; `slack` (n,) is the allocator's share."""
        peak = np.zeros(len(microbatches))
        for rank in self.ranks:
            kept = (rank.alive @ rows.activation).max(axis=0)
            if self.keeps_all:
                kept *= microbatches
            moving = kept + rows.working[rank.rows].max(axis=0) + rows.reduce_buffer[rank.rows].max(axis=0)
            moving += 2 * rows.gather_window[rank.rows].max(axis=0)
            beside = np.maximum((1 + slack) * moving, rank.held @ rows.step)
            np.maximum(peak, rank.held @ rows.static + beside, out=peak)
        return peak


def even_memory(schedule: ScheduleName, counts: IntArray, pp: int, microbatches: int) -> EvenMemory:
    """For stages of `counts` (S, R) rows; `microbatches` as `even_paths.distinct_microbatches` gives them."""
    by_rank = counts.reshape(-1, pp, counts.shape[1]).swapaxes(0, 1)
    alive = alive_counts(schedule, pp, len(counts) // pp, microbatches)
    ranks = []
    for rank in (run.first for run in alike(by_rank)):
        held = by_rank[rank]
        ranks.append(_Rank(held.sum(axis=0).astype(float), _most(alive[rank] @ held).astype(float)))
    return EvenMemory(ranks, keeps_all=schedule == "gpipe")


def _most(moments: IntArray) -> IntArray:
    """The rows of `moments` that no other row is at least as large as in every column."""
    moments = np.unique(moments, axis=0)
    covered = (moments[:, None] <= moments[None]).all(axis=2)
    return np.asarray(moments[covered.sum(axis=1) == 1])
