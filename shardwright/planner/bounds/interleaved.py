"""Lower bounds on interleaved entries, from the work and the waits of each rank.

Symbols: P ranks, v stages on each, M microbatches. Rank r holds N layers and takes x_r(N) seconds for one microbatch. f_s
and b_s are the least forward and backward of stage s, c is one message, F is the forward of the whole model. The order
of its actions makes rank r run k_r forwards before its first backward. The step therefore takes at least

    U_r + M x_r + A_r      U_r = sum_{s<r} (f_s + c): the first microbatch comes down r stages
    V_r + M x_r + A_r      V_r = F + (v P - 1) c + sum (b_s + c) - (its first k_r forwards), over the P - 1 - r last
                           stages: the first gradient comes back to the rank, and all but those forwards is still to do

A_r is the time after that. It is the rank's own tail of reductions, or sum_{s<r} (b_s + c) for the last gradient to go
up plus the first rank's tail. The gathers before first forwards lie on these paths too. The step is also at least the mean over
ranks.

`x_r(N)` includes the recompute without which N layers don't fit. At the moment of the highest memory use a layer on
chunk j is kept alive_j times. Chunks with more microbatches alive are therefore recomputed first. The bound is the
least T at which the ranks can hold all layers.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.costmodel.pipeline import alive_counts, runs_of_chunk, warm_up_forwards
from shardwright.costmodel.tables import Rows
from shardwright.planner.space import ChunkSizes, LayerRanges, SpaceCosts, chunk_sizes
from shardwright.specs import ScheduleName

from .layer_floor import LayerFloor
from .rank_bounds import RankBounds

_NAME: ScheduleName = "interleaved-1f1b"


class _Ramp(NamedTuple):
    """(P, chunks): microbatches alive at a rank's fullest moment, and forwards before its first backward."""

    alive: IntArray
    before: IntArray


@lru_cache(maxsize=4096)
def _ramp(pp: int, chunks: int, microbatches: int) -> _Ramp:
    alive = [counts[counts.sum(axis=1).argmax()] for counts in alive_counts(_NAME, pp, chunks, microbatches)]
    forwards = np.array(
        [min(chunks * microbatches, 1 + warm_up_forwards(_NAME, pp, chunks, microbatches, rank)) for rank in range(pp)]
    )
    return _Ramp(np.stack(alive), runs_of_chunk(forwards, pp, chunks))


@dataclass(frozen=True)
class InterleavedBounds:
    """The entries (E,) that share `pp` and `chunks`. Arrays are (E,), (E, P) or (E, P, J), J numbers of layers."""

    costs: SpaceCosts
    ranges: LayerRanges
    floor: LayerFloor
    entries: IntArray
    pp: int
    chunks: int

    def bounds(self) -> Array:
        """(E,) seconds without optimizers, infinite where nothing fits."""
        need, layers = self._need_seconds(), self.ranges.layer_count
        finite = np.where(np.isfinite(need), need, 0.0)
        low, high = np.zeros(len(self.entries)), finite.max(axis=(1, 2))
        numbers = self._numbers[None]
        most = np.where(np.isfinite(need), numbers, -layers).max(axis=2)
        enough = most.sum(axis=1) >= layers
        for _ in range(30):
            middle = (low + high) / 2
            held = np.where(need <= middle[:, None, None] * (1 + 1e-9), numbers, -layers).max(axis=2).sum(axis=1)
            fits = held >= layers
            low, high = np.where(fits, low, middle), np.where(fits, middle, high)
        floor = self.floor
        mean = self._microbatches * floor.total_seconds / self.pp + self._idle_seconds().min(axis=2).mean(axis=1)
        once = floor.total_seconds + 2 * floor.rows.send * (self.pp * self.chunks - 1)
        once = once + floor.whole_sum(floor.rows.first_forward) + floor.first_rank_tail(self.pp)
        path = np.maximum.reduce([low, mean, once, self._mixed_classes_seconds()])
        return np.where(enough, path, np.inf)

    def _mixed_classes_seconds(self) -> Array:
        """(E,): lower bound on the busiest rank's own work, from the layers of several classes; 0 for one class."""
        floor, (alive, _) = self.floor, self._ramps
        if floor.classes == 1:
            return np.zeros(len(self.entries))
        ranks = RankBounds(floor, alive.min(axis=2), alive.max(axis=2), self.costs.host_room_bytes)
        own = floor.row_seconds.times(self._microbatches) + floor.rows.first_forward + floor.tails
        return ranks.seconds(own, self._microbatches)

    @cached_property
    def _sizes(self) -> ChunkSizes:
        return chunk_sizes(self.ranges.layer_count, self.pp, self.chunks, self.costs.space.even_stages)

    @cached_property
    def _numbers(self) -> IntArray:
        """(P, J): the numbers of layers that a rank may hold; the last repeats where a rank has fewer choices."""
        fewest, most = self._sizes.fewest.sum(axis=1), self._sizes.most.sum(axis=1)
        steps = np.arange(int((most - fewest).max()) + 1)
        return np.asarray(np.minimum(fewest[:, None] + steps, most[:, None]))

    @cached_property
    def _ramps(self) -> tuple[Array, Array]:
        """(E, P, chunks) each: see `_Ramp`."""
        microbatches = self._microbatches.astype(np.int64)
        distinct, place = np.unique(microbatches, return_inverse=True)
        found = [_ramp(self.pp, self.chunks, int(count)) for count in distinct]
        return tuple(np.stack(part)[place].astype(float) for part in zip(*found, strict=True))  # type: ignore[return-value] # a pair

    def _need_seconds(self) -> Array:
        """(E, P, J): the least step in which rank r can run N layers; infinite where they don't fit.

        After the rank's own work the path goes up to the first rank and its tail, or ends with the rank's own tail.
        """
        floor = self.floor
        of_layers = floor.range_seconds(self._numbers[None], self.chunks)
        own = of_layers + floor.at_ends(floor.row_seconds, self.pp)[:, :, None] + self._recompute_seconds()
        return np.asarray(self._microbatches[:, None, None] * own + self._idle_seconds())

    @cached_property
    def _microbatches(self) -> Array:
        return self.costs.space.column("microbatches")[self.entries].astype(float)

    def _idle_seconds(self) -> Array:
        """(E, P, J): time before and after a rank's microbatches on these paths: U or V, and A."""
        floor = self.floor
        backward = floor.cheapest(floor.rows.backward)
        above, below = self._layers_above_and_below()
        rank = np.arange(self.pp)
        down, up = (self._along(values, above, rank)[:, :, None] for values in (floor.rows.forward, backward))
        gathers = floor.whole_sum(floor.rows.first_forward)[:, None, None]
        back = self._wait_back(self._along(backward, below, rank[::-1]))
        wait = np.maximum(down + self._of_rank(floor.rows.first_forward), back + gathers)
        after = np.maximum(up + floor.first_rank_tail(self.pp)[:, None, None], self._of_rank(floor.tails))
        return np.asarray(wait + after)

    def _layers_above_and_below(self) -> tuple[IntArray, IntArray]:
        """(P,), (P,): the fewest layers on the first stages above a rank's and on the last stages below it.

        Each stage holds its fewest, and all of them hold what the other stages cannot.
        """
        fewest, most, layers = self._sizes.fewest, self._sizes.most, self.ranges.layer_count

        def outside(sizes: IntArray) -> tuple[IntArray, IntArray]:
            return np.cumsum(sizes[:, 0]) - sizes[:, 0], sizes[:, -1].sum() - np.cumsum(sizes[:, -1])

        least, greatest = outside(fewest), outside(most)
        above, below = (
            np.maximum(few, layers - (most.sum() - many)) for few, many in zip(least, greatest, strict=True)
        )
        return above, below

    def _along(self, values: Rows, layers: IntArray, stages: IntArray) -> Array:
        """(E, P): lower bound on the time along `stages` (P,) with `layers` (P,) in all, messages included."""
        return np.asarray(layers * values.layers.min(axis=1)[:, None] + stages * self.floor.rows.send[:, None])

    def _of_rank(self, values: Rows) -> Array:
        """(E, P, J): lower bound on the sum of `values` (E,) over a rank of N layers."""
        of_layers = values.layers.min(axis=1)[:, None, None] * self._numbers
        return np.asarray(of_layers + self.floor.at_ends(values, self.pp)[:, :, None])

    def _wait_back(self, back: Array) -> Array:
        """(E, P, J): V. `back` (E, P) is the least time of the first gradient from the last stage to each rank.

        The first forwards of a rank are bounded from above: every spare layer counts for the chunk that runs most of
        them.
        """
        floor, sizes = self.floor, self._sizes
        _, before = self._ramps
        forward, whole = floor.rows.forward, floor.whole_sum(floor.rows.forward)
        send = floor.rows.send
        once = (whole + (self.pp * self.chunks - 1) * send)[:, None] + back
        spare = self._numbers - sizes.fewest.sum(axis=1)[:, None]
        counted = (before * sizes.fewest).sum(axis=2)[:, :, None] + spare * before.max(axis=2)[:, :, None]
        at_ends = floor.at_ends(forward, self.pp) * before.max(axis=2)
        first = counted * forward.layers.max(axis=1)[:, None, None] + at_ends[:, :, None]
        return np.asarray(once[:, :, None] - first)

    def _recompute_seconds(self) -> Array:
        """(E, P, J): the least recompute with which N layers fit, infinite where none does."""
        floor, sizes = self.floor, self._sizes
        alive, _ = self._ramps
        spare = self._numbers - sizes.fewest.sum(axis=1)[:, None]
        kept = (alive * sizes.fewest).sum(axis=2)[:, :, None] + spare * alive.min(axis=2)[:, :, None]
        slack = (1 + floor.rows.slack)[:, None, None]
        static = floor.layer_static[:, None, None] / slack * self._numbers
        used, saving_room = (
            static + kept * floor.cheap_kept[:, None, None],
            floor.room(self.pp, saving=True)[:, :, None],
        )
        over = used - floor.room(self.pp, saving=False)[:, :, None]
        never = (over > 0) & (static + kept * floor.least_kept[:, None, None] > saving_room)
        over = np.where(over > 0, used - saving_room, over)
        seconds = np.zeros(over.shape)
        order = np.argsort(-alive, axis=2, kind="stable")
        left = np.broadcast_to(spare, over.shape)
        for place in range(self.chunks):
            chunk = order[:, :, place]
            times = np.take_along_axis(alive, chunk[..., None], axis=2)
            fewest, most = (
                np.take_along_axis(np.broadcast_to(s, alive.shape), chunk[..., None], axis=2) for s in sizes
            )
            extra = np.minimum(most - fewest, left)  # no more layers than N, as many as may be where it saves most
            layers, left = fewest + extra, left - extra
            saved = np.clip(
                np.where(np.isfinite(over), over, 0.0), 0.0, layers * times * floor.most_saved[:, None, None]
            )
            seconds += saved * floor.price[:, None, None] / times
            over = over - saved
        host = floor.host_layers(self.pp, self.costs.host_room_bytes)[:, :, None]
        fits = (over <= 1e-6 * floor.room_bytes[:, None, None]) & ~never & (self._numbers <= host)
        return np.where(fits, seconds, np.inf)
