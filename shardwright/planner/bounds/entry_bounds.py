"""Lower bounds on the step of all entries of the space at once; infinite where no plan of an entry fits its memory.

Symbols: P ranks; M microbatches; x is the forward + backward of one microbatch over all rows of a rank; X is the sum of
x over ranks; m is the largest x; c is one message; T is the step. The bounds:

- m >= m*, the smallest m at which the ranks can hold all layers: see rank_bounds.py.
- 1F1B: let U_s and D_s be the round trips above and below the slowest stage s. Then
  T >= U_s + x_s + 2 D_s + (M - 1 - w_s) m.
  No stage takes more than m, so D_s >= X - (s + 1) m. Stage P - 1 - w runs after stage s's w-th later forward. So for M > P
  the path may go through all stages and back after each P microbatches: with R = X + 2 (P - 1) c and M - 1 = q P + r,
  T >= (1 + q) R + r m, and T >= 2 R + (M - 1 - P) m.
  The first gradient reaches a stage after all forwards and the backwards below it. All M backwards of the stage and the
  backwards above follow. With b*, the least backward of the slowest rank: T >= X + (M - 1) b* + 2 (P - 1) c.
- GPipe: T >= X + (M - 1) m + 2 (P - 1) c.
- Any schedule: T >= X + 2 (stages - 1) c, the time of the first microbatch. T is also at least the work of any one
  rank: M x, its first gathers and its tail of reductions. As with m, rank_bounds.py gives the least work of the busiest
  rank.
- Interleaved and breadth-first: see interleaved.py. Schedules that split the backward: see split_backward.py.

All paths but a rank's own work end on the first rank, so its tail of reductions is added. The mean optimizer time is
added to every bound.

`quick_bounds` are looser: T >= X (without the weight gradients, where they may be postponed), T >= M X / P, and T >= M times the layers of the commonest class on the rank that holds
most of them. They are infinite where all layers don't fit the memory of all ranks together. `least_bounds` are the same without the
optimizer and what data parallelism, the host and stragglers add to a pass.
"""

from dataclasses import dataclass, replace

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.costmodel.pipeline import waiting_microbatches
from shardwright.costmodel.tables import Rows
from shardwright.planner.space import SCHEDULES, LayerRanges, Space, SpaceCosts, chunk_sizes
from shardwright.specs import VOCABULARY, Candidates, ScheduleName, by_rank

from .interleaved import InterleavedBounds
from .layer_floor import LayerFloor
from .rank_bounds import RankBounds
from .split_backward import SplitBounds

_GPIPE = SCHEDULES.index("gpipe")


def least_bounds(costs: SpaceCosts, ranges: LayerRanges, allowed: list[int]) -> Array:
    """(N,) seconds, one for each entry of the space; at most its `quick_bounds`. They need no cost tables."""
    space, least = costs.space, costs.rows.least
    backward, kept = (Rows.by_policy(part).cheapest(allowed) for part in (least.backward, least.activation_bytes))
    bounds = _simple_bounds(
        space.base,
        ranges.whole,
        costs.room_bytes,
        seconds=Rows.of(least.forward) + backward,
        weight_gradient=Rows.of(least.weight_gradient_seconds),
        static=Rows.of(least.stays),
        kept=kept,
    )
    return np.asarray(bounds[space.splits.astype(int), space.base_index])


def quick_bounds(costs: SpaceCosts, ranges: LayerRanges, allowed: list[int], among: IntArray | None = None) -> Array:
    """(N,) seconds, one for each entry of the space, at most its `lower_bounds`; or (A,), for the entries `among` (A,)."""
    space = costs.space
    entries = np.arange(len(space)) if among is None else among
    bases, place = np.unique(space.base_index[entries], return_inverse=True)
    base, rows = space.base[bases], costs.rows[bases]
    bounds = _simple_bounds(
        base,
        ranges.whole,
        costs.room_bytes[bases],
        seconds=rows.forward + rows.backward.cheapest(allowed),
        weight_gradient=rows.weight_gradient,
        static=rows.static,
        kept=rows.activation.cheapest(allowed),
    )
    bounds += rows.optimizer.of_model(ranges.whole) / base.pp
    return np.asarray(bounds[space.splits[entries].astype(int), place])


def _simple_bounds(
    base: Candidates,
    whole: IntArray,
    room_bytes: Array,
    *,
    seconds: Rows,
    weight_gradient: Rows,
    static: Rows,
    kept: Rows,
) -> Array:
    """(2, B): bounds of base candidates without their optimizer, for schedules with whole and with split backwards."""
    total, common = seconds.of_model(whole), int(whole.argmax())
    busiest = -(-whole[common] // base.pp) * seconds.layers[:, common]
    work = base.microbatches * np.maximum(busiest, total / base.pp)
    # chunk by chunk all forwards come before the first backward
    alive = np.where(base.by_chunk == 1, base.microbatches, 1)
    fits = static.of_model(whole) + alive * (kept.layers @ whole) <= room_bytes * base.pp
    first = np.stack([total, total - weight_gradient.of_model(whole)])
    return np.where(fits, np.maximum(first, work), np.inf)


def lower_bounds(
    costs: SpaceCosts,
    ranges: LayerRanges,
    allowed: list[int],
    among: IntArray | None = None,
    limit_seconds: float = np.inf,
) -> Array:
    """(N,) seconds, one for each entry of the space; or (A,), for the entries `among` (A,).

    A bound that is not below `limit_seconds` may be looser than it could be.
    """
    space = costs.space
    chosen = np.arange(len(space)) if among is None else among
    bounds = np.full(len(chosen), np.inf)
    base_index, chunk_counts = space.base_index[chosen], space.stages_per_rank[chosen]
    depths = space.base.pp[base_index]
    spread = space.spread[chosen]
    # only schedules that split the backward have bounds of their own for each number of stages on a rank
    alike = np.where(space.splits[chosen], chunk_counts, _filled_up(chunk_counts))
    shape = 4 * (depths * (1 + alike.max(initial=0)) + alike) + 2 * space.splits[chosen] + spread
    shapes, shape_of = np.unique(shape, return_inverse=True)
    for index in range(len(shapes)):
        places = np.flatnonzero(shape_of == index)
        entries, bases = chosen[places], base_index[places]
        pp, chunks = int(depths[places[0]]), int(chunk_counts[places[0]])
        runs = space.runs(allowed, splits=bool(space.splits[entries[0]]), several=chunks > 1)
        floor = LayerFloor(
            costs.rows[bases],
            costs.room_bytes[bases],
            ranges,
            runs,
            on_ranks=_classes_of_ranks(space, ranges, entries, pp),
            spread=bool(spread[places[0]]),
        )
        optimizer = floor.whole_sum(floor.rows.optimizer) / pp
        limit = limit_seconds - optimizer
        if space.splits[entries[0]]:
            floor = replace(floor, folded=chunks > 1)
            path = SplitBounds(costs, ranges, floor, entries, pp, chunks).bounds(limit)
        elif chunks > 1:
            path = InterleavedBounds(costs, ranges, floor, entries, pp).bounds(limit)
        else:
            path = _FlatBounds(costs, ranges, floor, entries, pp).bounds(limit)
        bounds[places] = path + optimizer
    return bounds


def _filled_up(chunk_counts: IntArray) -> IntArray:
    """(A,): the next power of two. Up to it stages on a rank are filled up with empty ones, so that fewer arrays hold all entries."""
    return np.asarray(1 << np.ceil(np.log2(chunk_counts)).astype(np.int64))


def _classes_of_ranks(space: Space, ranges: LayerRanges, entries: IntArray, pp: int) -> Array | None:
    """(E, P, K): the classes of which each rank may hold layers, None where each may hold all."""
    if ranges.counts.shape[1] == 1 or pp == 1:
        return None
    kinds = np.stack([space.schedule[entries], space.stages_per_rank[entries]])
    distinct, place = np.unique(kinds, axis=1, return_inverse=True)
    found = [_classes_of_schedule(space, ranges, SCHEDULES[kind], pp, chunks) for kind, chunks in distinct.T.tolist()]
    return np.stack(found)[place]


def _classes_of_schedule(space: Space, ranges: LayerRanges, name: ScheduleName, pp: int, chunks: int) -> Array:
    """(P, K): the classes of which each rank may hold layers."""
    sizes = chunk_sizes(ranges.layer_count, pp, chunks, space.even_stages)
    of_stages = ranges.classes_within(sizes.fewest.T.reshape(-1), sizes.most.T.reshape(-1))
    found = by_rank(name, pp, of_stages.T.astype(int)).max(axis=-2).T > 0
    return np.asarray(found | ~found.any(axis=1, keepdims=True))  # a rank without layers counts as any other


@dataclass(frozen=True)
class _FlatBounds:
    """The entries (E,) with one stage on each of P ranks. Arrays are (E,) or (E, P)."""

    costs: SpaceCosts
    ranges: LayerRanges
    floor: LayerFloor
    entries: IntArray
    pp: int

    def bounds(self, limit: Array) -> Array:
        """(E,) seconds without optimizers. What is not below `limit` (E,) may be looser."""
        floor, rows, microbatches = self.floor, self.floor.rows, self._microbatches.astype(float)
        ranks = RankBounds(floor, self._alive, self._alive, self.costs.host_room_bytes)
        own = floor.row_seconds.times(microbatches) + rows.first_forward + floor.tails
        found = ranks.seconds(own, microbatches, limit)
        near = np.flatnonzero(found < limit)
        if len(near):
            of_near = replace(self, floor=floor[near], entries=self.entries[near])
            found[near] = np.maximum(found[near], of_near._path_seconds(ranks[near], limit[near]))
        return found

    def _path_seconds(self, ranks: RankBounds, limit: Array) -> Array:
        """(E,): lower bound on the paths that end on the first rank, for entries that fit.

        A largest stage of limit / (M - P - 1) takes a path to the limit, and a least backward of limit / (M - 1).
        """
        pp, floor, rows, microbatches = self.pp, self.floor, self.floor.rows, self._microbatches.astype(float)
        one, total = np.ones(len(self.entries)), floor.total_seconds
        fitting = ranks.seconds(floor.row_seconds, one, limit / np.maximum(1.0, microbatches - pp - 1))
        largest = np.maximum(np.where(np.isfinite(fitting), fitting, 0.0), total / pp)
        once = trip = total + 2 * rows.send * (pp - 1)
        trips, rest = np.divmod(microbatches - 1, pp)
        steady = np.maximum(2 * trip + (microbatches - 1 - pp) * largest, (1 + trips) * trip + rest * largest)
        if pp > 1:
            least = floor.cheapest(rows.backward)
            backward = ranks.seconds(least, one, limit / np.maximum(1.0, microbatches - 1))
            once = once + (microbatches - 1) * np.where(np.isfinite(backward), backward, 0.0)
        path = np.where(microbatches > pp, np.maximum(once, steady), once) + floor.whole_sum(rows.first_forward)
        path = np.where(self._gpipe, trip + (microbatches - 1) * largest, path)
        return np.asarray(path + floor.first_rank_tail(pp))

    @property
    def _microbatches(self) -> IntArray:
        return self.costs.space.column("microbatches", self.entries)

    @property
    def _gpipe(self) -> Array:
        return np.asarray(self.costs.space.schedule[self.entries] == _GPIPE)

    @property
    def _alive(self) -> Array:
        """(E, P): microbatches in flight."""
        in_steady_state = np.minimum(self._microbatches[:, None], self.pp - np.arange(self.pp))
        waiting = np.stack([waiting_microbatches(kind, self.pp) for kind in VOCABULARY])
        in_steady_state += waiting[self.costs.space.vocabulary_parallel[self.entries]]
        alive = np.where(self._gpipe[:, None], self._microbatches[:, None], in_steady_state)
        return np.minimum(alive, self._microbatches[:, None]).astype(float)
