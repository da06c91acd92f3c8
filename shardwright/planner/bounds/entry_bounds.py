"""Lower bounds on the step of all entries of the space at once; infinite where no plan of an entry fits its memory.

Symbols: P ranks; M microbatches; x is the forward + backward of one microbatch over all rows of a rank; X is the sum of
x over ranks; m is the largest x; c is one message; T is the step. The bounds:

- m >= m*, the smallest m at which the ranks can hold all layers: see rank_bounds.py.
- 1F1B: let U_s and D_s be the round trips above and below the slowest stage s. Then
  T >= U_s + x_s + 2 D_s + (M - 1 - w_s) m.
  No stage takes more than m, so D_s >= X - (s + 1) m. Both together: T >= 2 X + (M - P - 1) m + 2 (P - 1) c for M > P.
- GPipe: T >= X + (M - 1) m + 2 (P - 1) c.
- Any schedule: T >= X + 2 (stages - 1) c, the time of the first microbatch. T is also at least the work of any one
  rank: M x, its first gathers and its tail of reductions. As with m, rank_bounds.py gives the least work of the busiest
  rank.
- Interleaved: see interleaved.py.

All paths but a rank's own work end on the first rank, so its tail of reductions is added. The mean optimizer time is
added to every bound.
"""

from dataclasses import dataclass

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.planner.space import SCHEDULES, LayerRanges, SpaceCosts

from .interleaved import InterleavedBounds
from .layer_floor import LayerFloor
from .rank_bounds import RankBounds

_GPIPE, _INTERLEAVED = SCHEDULES.index("gpipe"), SCHEDULES.index("interleaved-1f1b")


def lower_bounds(costs: SpaceCosts, ranges: LayerRanges, allowed: list[int]) -> Array:
    """(N,) seconds, one for each entry of the space."""
    space = costs.space
    bounds = np.full(len(space), np.inf)
    shape = space.column("pp") * (1 + space.stages_per_rank.max()) + space.stages_per_rank
    for _, first in zip(*np.unique(shape, return_index=True), strict=True):
        entries = np.flatnonzero(shape == shape[first])
        pp, chunks = int(space.column("pp")[first]), int(space.stages_per_rank[first])
        floor = LayerFloor(
            costs.rows[space.base_index[entries]], costs.room_bytes[space.base_index[entries]], ranges, allowed
        )
        if space.schedule[first] == _INTERLEAVED:
            path = InterleavedBounds(costs, ranges, floor, entries, pp, chunks).bounds()
        else:
            path = _FlatBounds(costs, ranges, floor, entries, pp).bounds()
        bounds[entries] = path + floor.whole_sum(floor.rows.optimizer) / pp
    return bounds


@dataclass(frozen=True)
class _FlatBounds:
    """The entries (E,) with one stage on each of P ranks. Arrays are (E,) or (E, P)."""

    costs: SpaceCosts
    ranges: LayerRanges
    floor: LayerFloor
    entries: IntArray
    pp: int

    def bounds(self) -> Array:
        """(E,) seconds without optimizers."""
        pp, floor, rows = self.pp, self.floor, self.floor.rows
        microbatches = self._microbatches.astype(float)
        ranks = RankBounds(floor, self._alive, self._alive, self.costs.host_room_bytes)
        total, fitting = floor.total_seconds, ranks.seconds(floor.row_seconds, np.ones(len(self.entries)))
        largest = np.where(np.isfinite(fitting), fitting, 0.0)
        once = total + 2 * rows.send * (pp - 1)
        steady = once + total + (microbatches - pp - 1) * np.maximum(largest, total / pp)
        path = np.where(microbatches > pp, np.maximum(once, steady), once) + floor.whole_sum(rows.first_forward)
        path = np.where(self._gpipe, once + (microbatches - 1) * largest, path) + floor.first_rank_tail(pp)
        own = floor.row_seconds.times(microbatches) + rows.first_forward + floor.tails
        return np.where(np.isfinite(fitting), np.maximum(path, ranks.seconds(own, microbatches)), np.inf)

    @property
    def _microbatches(self) -> IntArray:
        return self.costs.space.column("microbatches")[self.entries]

    @property
    def _gpipe(self) -> Array:
        return np.asarray(self.costs.space.schedule[self.entries] == _GPIPE)

    @property
    def _alive(self) -> Array:
        """(E, P): microbatches in flight."""
        in_steady_state = np.minimum(self._microbatches[:, None], self.pp - np.arange(self.pp))
        return np.where(self._gpipe[:, None], self._microbatches[:, None], in_steady_state).astype(float)
