"""Lower bounds on interleaved and breadth-first entries, from the work and the waits of each rank.

Symbols: P ranks, v stages on each, M microbatches. Rank r holds N layers and takes x_r(N) seconds for one microbatch. f_s
and b_s are the least forward and backward of stage s, c is one message, F is the forward of the whole model. The order
of its actions makes rank r run k_r forwards before its first backward. The step therefore takes at least

    U_r + M x_r + A_r      U_r = sum_{s<r} (f_s + c): the first microbatch comes down r stages
    V_r + M x_r + A_r      V_r = F + (v P - 1) c + sum (b_s + c) - (its first k_r forwards), over the P - 1 - r last
                           stages: the first gradient comes back to the rank, and all but those forwards is still to do

A_r is the time after that. It is the rank's own tail of reductions, or sum_{s<r} (b_s + c) for the last gradient to go
up plus the first rank's tail. Or it is C_r, the mirror image of V_r: the last forward goes on to the loss, and its gradient
comes back through the whole model, while the rank runs its last k_r backwards. V and C need a forward after the first
backward, which breadth-first has none of. The gathers before first forwards lie on these paths too. The step is also at least the mean over ranks.

`x_r(N)` includes the recompute without which N layers don't fit. At the moment of the highest memory use a layer on
chunk j is kept alive_j times. Chunks with more microbatches alive are therefore recomputed first. The bound is the
least T at which the ranks can hold all layers.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import NamedTuple

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.costmodel.pipeline import alive_counts, runs_of_chunk, warm_up_forwards
from shardwright.costmodel.tables import Rows
from shardwright.planner.space import ChunkSizes, LayerRanges, SpaceCosts, chunk_sizes
from shardwright.specs import ScheduleName, runs_by_chunk

from .bisection import least_that_holds
from .layer_floor import LayerFloor
from .rank_bounds import RankBounds


class _Ramp(NamedTuple):
    """(P, chunks): microbatches alive at a rank's fullest moment, and forwards before its first backward."""

    alive: IntArray
    before: IntArray


@lru_cache(maxsize=4096)
def _ramp(name: ScheduleName, pp: int, chunks: int, microbatches: int) -> _Ramp:
    alive = [counts[counts.sum(axis=1).argmax()] for counts in alive_counts(name, pp, chunks, microbatches)]
    if runs_by_chunk(name):
        return _Ramp(np.stack(alive), np.full((pp, chunks), microbatches))
    forwards = np.array(
        [min(chunks * microbatches, 1 + warm_up_forwards(name, pp, chunks, microbatches, rank)) for rank in range(pp)]
    )
    return _Ramp(np.stack(alive), runs_of_chunk(forwards, pp, chunks))


@dataclass(frozen=True)
class InterleavedBounds:
    """The entries (E,) that share `name`, `pp` and `chunks`. Arrays are (E,), (E, P) or (E, P, J), J numbers of layers."""

    costs: SpaceCosts
    ranges: LayerRanges
    floor: LayerFloor
    entries: IntArray
    name: ScheduleName
    pp: int
    chunks: int

    def bounds(self, limit: Array) -> Array:
        """(E,) seconds without optimizers, infinite where nothing fits. What is not below `limit` (E,) may be looser."""
        floor = self.floor
        once = floor.total_seconds + 2 * floor.rows.send * (self.pp * self.chunks - 1)
        once = once + floor.whole_sum(floor.rows.first_forward) + self._first_rank_tail
        mean = self._microbatches * floor.total_seconds / self.pp
        found: Array = np.maximum.reduce([mean, once, self._mixed_classes_seconds(limit)])
        near = np.flatnonzero(found < limit)
        if len(near):
            of_near = replace(self, floor=floor[near], entries=self.entries[near])
            found[near] = of_near._bisected(found[near], limit[near])
        return found

    def _bisected(self, low: Array, limit: Array) -> Array:
        """(E,): the least step in which all ranks hold all layers, from `low` up to `limit` (E,); infinite where none fits."""
        need = self._need_seconds()
        enough = self._hold(need, np.full(len(self.entries), 1e300))
        mean = self._microbatches * self.floor.total_seconds / self.pp
        low = np.maximum(low, mean + np.maximum(*self._idle_seconds).min(axis=2).mean(axis=1))
        highest = np.where(np.isfinite(need), need, 0.0).max(axis=(1, 2))
        high = np.maximum(low, np.minimum(highest, limit))
        low = np.where(self._hold(need, high), low, high)
        return np.where(enough, least_that_holds(partial(self._hold, need), low, high), np.inf)

    def _hold(self, need: Array, seconds: Array) -> Array:
        """(E,): whether the ranks hold all layers, where those of `need` (E, P, J) may take `seconds` (E,)."""
        layers = self.ranges.layer_count
        within = need <= seconds[:, None, None] * (1 + 1e-9)
        held = np.where(within & np.isfinite(need), self._numbers[None], -layers).max(axis=2)
        return np.asarray(held.sum(axis=1) >= layers)

    def _mixed_classes_seconds(self, limit: Array) -> Array:
        """(E,): lower bound on the busiest rank's own work, from the layers of several classes; 0 for one class."""
        floor, (alive, _) = self.floor, self._ramps
        if floor.classes == 1:
            return np.zeros(len(self.entries))
        ranks = RankBounds(floor, alive.min(axis=2), alive.max(axis=2), self.costs.host_room_bytes)
        own = floor.row_seconds.times(self._microbatches) + floor.rows.first_forward + floor.tails
        return ranks.seconds(own, self._microbatches, limit)

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
        found = [_ramp(self.name, self.pp, self.chunks, int(count)) for count in distinct]
        return tuple(np.stack(part)[place].astype(float) for part in zip(*found, strict=True))  # type: ignore[return-value] # a pair

    def _need_seconds(self) -> Array:
        """(E, P, J): the least step in which rank r can run N layers; infinite where they don't fit.

        The last backwards of the rank, with their recompute, are not on the paths that end with C.
        """
        floor, most = self.floor, self._microbatches[:, None, None]
        plain = floor.range_seconds(self._numbers, self.chunks)
        plain = most * (plain + floor.at_ends(floor.row_seconds, self.pp)[:, :, None])
        recompute = self._recompute_seconds()
        off_path = np.minimum(most, self._ramps[1].max(axis=2)[:, :, None]) - 1
        up, to_loss = self._idle_seconds
        return np.asarray(plain + np.maximum(most * recompute + up, (most - off_path) * recompute + to_loss))

    @cached_property
    def _microbatches(self) -> Array:
        return self.costs.space.column("microbatches", self.entries).astype(float)

    @cached_property
    def _idle_seconds(self) -> tuple[Array, Array]:
        """(E, P, J) each: time before and after a rank's microbatches on the paths that end with A, and with C."""
        floor = self.floor
        backward = floor.cheapest(floor.rows.backward)
        forward = floor.rows.forward
        down, up = self._above(forward) + self._of_rank(floor.rows.first_forward), self._above(backward)
        gathers = floor.whole_sum(floor.rows.first_forward)[:, None, None]
        back = self._to_loss_and_back(forward, self._below(backward)) + gathers
        tail = self._first_rank_tail[:, None, None]
        last = self._to_loss_and_back(backward, self._below(forward)) + tail
        alternates = np.where(self._alternates[:, :, None], back, -np.inf)
        ends = np.maximum(up + tail, self._of_rank(floor.tails))
        return np.maximum(down, back) + ends, np.maximum(down, alternates) + last

    @cached_property
    def _first_rank_tail(self) -> Array:
        """(E,): the tail of the embedding and of as many layers as the first rank holds at least."""
        fewest, most = (sizes.sum(axis=1) for sizes in self._sizes)
        layers = max(int(fewest[0]), self.ranges.layer_count - int(most[1:].sum()))
        return np.asarray(self.floor.tails.first + layers * self.floor.tails.layers.min(axis=1))

    @property
    def _alternates(self) -> Array:
        """(E, P): whether the last forward of a rank comes after its first backward."""
        return np.asarray(self._ramps[1].sum(axis=2) < self._microbatches[:, None] * self.chunks)

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

    def _above(self, values: Rows) -> Array:
        """(E, P, 1): lower bound on the time along the stages above a rank's first one, messages included."""
        layers, _ = self._layers_above_and_below()
        return self._along(values, layers, np.arange(self.pp), values.first)[:, :, None]

    def _below(self, values: Rows) -> Array:
        """(E, P): lower bound on the time along the stages below a rank's last one, messages included."""
        _, layers = self._layers_above_and_below()
        return self._along(values, layers, np.arange(self.pp)[::-1], values.last)

    def _along(self, values: Rows, layers: IntArray, stages: IntArray, end: Array) -> Array:
        each = layers * values.layers.min(axis=1)[:, None] + stages * self.floor.rows.send[:, None]
        return np.asarray(each + (stages > 0) * end[:, None])

    def _of_rank(self, values: Rows) -> Array:
        """(E, P, J): lower bound on the sum of `values` (E,) over a rank of N layers."""
        of_layers = self.floor.lowest(values.layers)[..., None] * self._numbers
        return np.asarray(of_layers + self.floor.at_ends(values, self.pp)[:, :, None])

    def _to_loss_and_back(self, values: Rows, behind: Array) -> Array:
        """(E, P, J): V with the forwards as `values`, C with the backwards.

        `behind` (E, P) is the least time between the rank and the last stage. The rank's first forwards, and its last
        backwards, are bounded from above: as many layers as may be are on the chunks that run most of them.
        """
        floor, (_, before) = self.floor, self._ramps
        once = (floor.whole_sum(values) + (self.pp * self.chunks - 1) * floor.rows.send)[:, None] + behind
        at_ends = floor.at_ends(values, self.pp) * before.max(axis=2)
        own = self._most_passes * -floor.lowest(-values.layers)[..., None] + at_ends[:, :, None]
        return np.asarray(once[:, :, None] - own)

    @cached_property
    def _most_passes(self) -> Array:
        """(E, P, J): upper bound on the passes of single layers in a rank's first forwards."""
        sizes, (_, before) = self._sizes, self._ramps
        found = np.broadcast_to(
            (before * sizes.fewest).sum(axis=2)[:, :, None], (*before.shape[:2], self._numbers.shape[1])
        )
        left = np.broadcast_to(self._numbers - sizes.fewest.sum(axis=1)[:, None], found.shape)
        for passes, fewest, most in self._fullest_first(before):
            if not left.any():
                break
            extra = np.minimum(most - fewest, left)
            found, left = found + extra * passes, left - extra
        return found

    def _fullest_first(self, counts: Array) -> Iterator[tuple[Array, Array, Array]]:
        """Yield for a rank's chunks, those of the highest `counts` (E, P, chunks) first, counts, fewest and most layers, (E, P, 1) each."""
        order = np.argsort(-counts, axis=2, kind="stable")
        sizes = (np.broadcast_to(each, counts.shape) for each in self._sizes)
        ordered = [np.moveaxis(np.take_along_axis(each, order, axis=2), 2, 0)[..., None] for each in (counts, *sizes)]
        return zip(*ordered, strict=True)

    def _recompute_seconds(self) -> Array:
        """(E, P, J): the least recompute with which N layers fit, infinite where none does.

        It is the missing bytes times the lowest price of a saved byte, and at least the recompute of as many whole layers as
        save that much.
        """
        floor, sizes = self.floor, self._sizes
        alive, _ = self._ramps
        spare = self._numbers - sizes.fewest.sum(axis=1)[:, None]
        kept = (alive * sizes.fewest).sum(axis=2)[:, :, None] + spare * alive.min(axis=2)[:, :, None]
        slack = (1 + floor.rows.slack)[:, None, None]
        static = floor.layer_static[..., None] / slack * self._numbers
        used = static + kept * floor.cheap_kept[..., None]
        saving_room, most_saved = floor.room(self.pp, saving=True)[:, :, None], floor.most_saved[..., None]
        over = used - floor.room(self.pp, saving=False)[:, :, None]
        never = (over > 0) & (static + kept * floor.least_kept[..., None] > saving_room)
        over = np.where(over > 0, used - saving_room, over)
        seconds, changed = np.zeros(over.shape), np.zeros(over.shape)
        left = np.broadcast_to(spare, over.shape)
        for times, fewest, most in self._fullest_first(alive):
            if not (over > 0).any():
                break
            extra = np.minimum(most - fewest, left)  # no more layers than N, as many as may be where it saves most
            layers, left = fewest + extra, left - extra
            saved = np.clip(np.where(np.isfinite(over), over, 0.0), 0.0, layers * times * most_saved)
            seconds += saved * floor.price[..., None] / times
            each_saved = np.maximum(times * most_saved, 1.0)
            changed += np.ceil(saved / each_saved * (1 - 1e-9))
            over = over - saved
        host = floor.host_layers(self.pp, self.costs.host_room_bytes)[:, :, None]
        fits = (over <= 1e-6 * floor.room_bytes[:, None, None]) & ~never & (self._numbers <= host)
        return np.where(fits, np.maximum(seconds, changed * floor.least_spent[..., None]), np.inf)
