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

from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.costmodel.tables import Rows
from shardwright.planner.space import LayerRanges, SpaceCosts

from .bisection import least_that_holds
from .chunked_ranks import ChunkedRanks
from .layer_floor import LayerFloor
from .rank_bounds import RankBounds


@dataclass(frozen=True)
class InterleavedBounds:
    """The entries (E,) that share `pp`. Arrays are (E,), (E, P) or (E, P, J), J numbers of layers."""

    costs: SpaceCosts
    ranges: LayerRanges
    floor: LayerFloor
    entries: IntArray
    pp: int

    def bounds(self, limit: Array) -> Array:
        """(E,) seconds without optimizers, infinite where nothing fits. What is not below `limit` (E,) may be looser."""
        floor = self.floor
        once = floor.total_seconds + 2 * floor.rows.send * (self.pp * self._chunks - 1)
        once = once + floor.whole_sum(floor.rows.first_forward) + self._first_rank_tail
        mean = self._microbatches * floor.total_seconds / self.pp
        found: Array = np.maximum.reduce([mean, once, self._mixed_classes_seconds(limit)])
        near = np.flatnonzero(found < limit)
        if len(near):
            of_near = self if len(near) == len(found) else replace(self, floor=floor[near], entries=self.entries[near])
            found[near] = of_near._bisected(found[near], limit[near])
        return found

    def _bisected(self, low: Array, limit: Array) -> Array:
        """(E,): the least step in which all ranks hold all layers, from `low` up to `limit` (E,); infinite where none fits."""
        need, numbers = self._need_seconds(), self._numbers
        enough = self._hold(need, numbers, np.full(len(self.entries), 1e300))
        mean = self._microbatches * self.floor.total_seconds / self.pp
        low = np.maximum(low, mean + np.maximum(*self._idle_seconds).min(axis=2).mean(axis=1))
        highest = np.where(np.isfinite(need), need, 0.0).max(axis=(1, 2))
        high = np.maximum(low, np.minimum(highest, limit))
        low = np.where(self._hold(need, numbers, high), low, high)
        left = np.flatnonzero(enough & (low < high))
        if len(left):
            low[left] = least_that_holds(partial(self._hold, need[left], numbers[left]), low[left], high[left])
        return np.where(enough, low, np.inf)

    def _hold(self, need: Array, numbers: IntArray, seconds: Array) -> Array:
        """(E,): whether the ranks hold all layers, where `numbers` (E, P, J) of `need` (E, P, J) may take `seconds` (E,)."""
        layers = self.ranges.layer_count
        within = need <= seconds[:, None, None] * (1 + 1e-9)
        held = np.where(within & np.isfinite(need), numbers, -layers).max(axis=2)
        return np.asarray(held.sum(axis=1) >= layers)

    def _mixed_classes_seconds(self, limit: Array) -> Array:
        """(E,): lower bound on the busiest rank's own work, from the layers of several classes; 0 for one class."""
        floor, (ranks, of) = self.floor, self._ranks
        if floor.classes == 1:
            return np.zeros(len(self.entries))
        bounds = RankBounds(floor, ranks.least_alive[of], ranks.alive.max(axis=2)[of], self.costs.host_room_bytes)
        own = floor.row_seconds.times(self._microbatches) + floor.rows.first_forward + floor.tails
        return bounds.seconds(own, self._microbatches, limit)

    @cached_property
    def _ranks(self) -> tuple[ChunkedRanks, IntArray]:
        """The distinct pipelines of the entries, and which of them each entry has (E,)."""
        space, entries = self.costs.space, self.entries
        kinds = np.stack([space.schedule[entries], self._chunks, self._microbatches.astype(np.int64)])
        steps = kinds.max(axis=1) + 1
        _, first, of = np.unique(np.ravel_multi_index(kinds, steps), return_index=True, return_inverse=True)
        return ChunkedRanks.of(kinds[:, first], self.pp, self.ranges.layer_count, even=space.even_stages), of

    @cached_property
    def _numbers(self) -> IntArray:
        """(E, P, J): the numbers of layers that a rank may hold."""
        ranks, of = self._ranks
        return ranks.numbers[of]

    @property
    def _chunks(self) -> IntArray:
        """(E,): stages on each rank."""
        return self.costs.space.stages_per_rank[self.entries]

    def _need_seconds(self) -> Array:
        """(E, P, J): the least step in which rank r can run N layers; infinite where they don't fit.

        The last backwards of the rank, with their recompute, are not on the paths that end with C.
        """
        floor, most, (ranks, of) = self.floor, self._microbatches[:, None, None], self._ranks
        plain = floor.range_seconds(self._numbers, self._chunks[:, None, None])
        plain = most * (plain + floor.at_ends(floor.row_seconds, self.pp)[:, :, None])
        recompute = self._recompute_seconds()
        off_path = np.minimum(most, ranks.before.max(axis=2)[of][:, :, None]) - 1
        up, to_loss = self._idle_seconds
        return np.asarray(plain + np.maximum(most * recompute + up, (most - off_path) * recompute + to_loss))

    @cached_property
    def _microbatches(self) -> Array:
        return self.costs.space.column("microbatches", self.entries).astype(float)

    @cached_property
    def _idle_seconds(self) -> tuple[Array, Array]:
        """(E, P, J) each: time before and after a rank's microbatches on the paths that end with A, and with C."""
        floor, (ranks, of) = self.floor, self._ranks
        backward = floor.cheapest(floor.rows.backward)
        forward = floor.rows.forward
        down, up = self._above(forward) + self._of_rank(floor.rows.first_forward), self._above(backward)
        gathers = floor.whole_sum(floor.rows.first_forward)[:, None, None]
        back = self._to_loss_and_back(forward, self._below(backward)) + gathers
        tail = self._first_rank_tail[:, None, None]
        last = self._to_loss_and_back(backward, self._below(forward)) + tail
        alternates = np.where(ranks.alternates[of][:, :, None], back, -np.inf)
        ends = np.maximum(up + tail, self._of_rank(floor.tails))
        return np.maximum(down, back) + ends, np.maximum(down, alternates) + last

    @cached_property
    def _first_rank_tail(self) -> Array:
        """(E,): the tail of the embedding and of as many layers as the first rank holds at least."""
        ranks, of = self._ranks
        return np.asarray(self.floor.tails.first + ranks.first_rank_layers[of] * self.floor.tails.layers.min(axis=1))

    def _above(self, values: Rows) -> Array:
        """(E, P, 1): lower bound on the time along the stages above a rank's first one, messages included."""
        ranks, of = self._ranks
        return self._along(values, ranks.layers_above[of], np.arange(self.pp), values.first)[:, :, None]

    def _below(self, values: Rows) -> Array:
        """(E, P): lower bound on the time along the stages below a rank's last one, messages included."""
        ranks, of = self._ranks
        return self._along(values, ranks.layers_below[of], np.arange(self.pp)[::-1], values.last)

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
        backwards, are bounded from above.
        """
        floor, (ranks, of) = self.floor, self._ranks
        once = (floor.whole_sum(values) + (self.pp * self._chunks - 1) * floor.rows.send)[:, None] + behind
        at_ends = floor.at_ends(values, self.pp) * ranks.before.max(axis=2)[of]
        own = self._most_passes * -floor.lowest(-values.layers)[..., None] + at_ends[:, :, None]
        return np.asarray(once[:, :, None] - own)

    @cached_property
    def _most_passes(self) -> Array:
        ranks, of = self._ranks
        return ranks.most_passes[of]

    def _recompute_seconds(self) -> Array:
        """(E, P, J): the least recompute with which N layers fit, infinite where none does.

        It is the missing bytes times the lowest price of a saved byte, and at least the recompute of as many whole layers as
        save that much.
        """
        floor, (ranks, of) = self.floor, self._ranks
        kept = ranks.least_kept[of]
        slack = (1 + floor.rows.slack)[:, None, None]
        static = floor.layer_static[..., None] / slack * self._numbers
        used = static + kept * floor.cheap_kept[..., None]
        saving_room = floor.room(self.pp, saving=True)[:, :, None]
        over = used - floor.room(self.pp, saving=False)[:, :, None]
        never = (over > 0) & (static + kept * floor.least_kept[..., None] > saving_room)
        over = np.where(over > 0, used - saving_room, over)
        host = floor.host_layers(self.pp, self.costs.host_room_bytes)[:, :, None]
        never |= self._numbers > host
        short = np.flatnonzero(((over > 0) & ~never).any(axis=(1, 2)))
        seconds = np.where(never, np.inf, 0.0)
        if len(short):
            seconds[short] += self._saving_seconds(short, over[short])
        return seconds

    def _saving_seconds(self, among: IntArray, over: Array) -> Array:
        """(A, P, J): the least recompute that saves `over` (A, P, J) bytes of the entries `among` (A,), infinite where none does."""
        floor, (ranks, of) = self.floor[among], self._ranks
        most_saved, spare = floor.most_saved[..., None], ranks.spare
        seconds, changed = np.zeros(over.shape), np.zeros(over.shape)
        for chunk in ranks.fullest_first(ranks.alive):
            if not (over > 0).any():
                break
            extra = np.minimum((chunk.most - chunk.fewest)[..., None], spare)
            layers, spare = chunk.fewest[..., None] + extra, spare - extra  # as many as may be where it saves most
            times = chunk.counts[of[among]][..., None]
            saved = np.clip(np.where(np.isfinite(over), over, 0.0), 0.0, layers[of[among]] * times * most_saved)
            seconds += saved * (floor.price[..., None] / np.maximum(times, 1))
            changed += np.ceil(saved / np.maximum(times * most_saved, 1.0) * (1 - 1e-9))
            over = over - saved
        fits = over <= 1e-6 * floor.room_bytes[:, None, None]
        return np.where(fits, np.maximum(seconds, changed * floor.least_spent[..., None]), np.inf)
