"""Lower bounds of the step of every entry of the space at once, infinite where no plan of the entry fits its memory.

Symbols: P ranks, M microbatches; a rank's x is forward + backward of one microbatch over all its rows; X = sum of x over
ranks; m the largest x. What each bound rests on:

- m >= m*, the smallest m at which the ranks can hold all layers: a rank of n layers takes at least n times the cheapest
  class, and when n layers don't fit with the policy that costs least, at least the needed bytes times the lowest price
  of a saved byte. That is rising and piecewise linear in n, so the n that fit in m have a closed form and m* is bisected.
- 1F1B: with U_s, D_s the round trips above and below the slowest stage s, T >= U_s + x_s + 2 D_s + (M - 1 - w_s) m, and
  as no stage takes more than m, D_s >= X - (s + 1) m. Both together: T >= 2 X + (M - P - 1) m + 2 (P - 1) c for M > P.
- GPipe: T >= X + (M - 1) m + 2 (P - 1) c.
- any schedule: T >= X + 2 (stages - 1) c for the first microbatch, and T >= what a rank has to do itself: M x, its first
  gathers and its tail of reductions. As with m, some rank has at least so much.
- interleaved: see interleaved_bounds.py.

The other paths end on the first rank, so that its tail of reductions comes after them; the mean optimizer after all.
"""

from dataclasses import dataclass, replace

import numpy as np

from shardwright.costmodel import constants
from shardwright.costmodel.candidates import IntArray
from shardwright.costmodel.op_times import Array

from .interleaved_bounds import InterleavedBounds
from .layer_floor import LayerFloor
from .layer_ranges import LayerRanges
from .space import SCHEDULES
from .space_costs import SpaceCosts

_BISECTIONS = 30
_GPIPE, _INTERLEAVED = SCHEDULES.index("gpipe"), SCHEDULES.index("interleaved-1f1b")


def lower_bounds(costs: SpaceCosts, ranges: LayerRanges, allowed: list[int]) -> Array:
    """(N,) seconds, one for each entry of the space."""
    space = costs.space
    bounds = np.full(len(space), np.inf)
    shape = space.column("pp") * (1 + space.stages_per_rank.max()) + space.stages_per_rank
    for _, first in zip(*np.unique(shape, return_index=True), strict=True):
        entries = np.flatnonzero(shape == shape[first])
        pp, chunks = int(space.column("pp")[first]), int(space.stages_per_rank[first])
        floor = LayerFloor(costs.rows[space.base_index[entries]], ranges, allowed)
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
        total, fitting = floor.total_seconds, self._rank_seconds(floor.all_row_seconds, np.ones(len(self.entries)))
        largest = np.where(np.isfinite(fitting), fitting, 0.0)
        once = total + 2 * rows.send * (pp - 1)
        steady = once + total + (microbatches - pp - 1) * np.maximum(largest, total / pp)
        path = np.where(microbatches > pp, np.maximum(once, steady), once) + floor.whole_sum(rows.first_forward)
        path = np.where(self._gpipe, once + (microbatches - 1) * largest, path) + floor.first_rank_tail(pp)
        own = microbatches[:, None] * floor.all_row_seconds + rows.first_forward + floor.tails
        return np.where(np.isfinite(fitting), np.maximum(path, self._rank_seconds(own, microbatches)), np.inf)

    @property
    def _microbatches(self) -> IntArray:
        return self.costs.space.column("microbatches")[self.entries]

    @property
    def _gpipe(self) -> Array:
        return np.asarray(self.costs.space.schedule[self.entries] == _GPIPE)

    def _rank_seconds(self, each_row: Array, recomputed: Array) -> Array:
        """(E,): the least that the rank with the most takes, where rows take `each_row` (E, R) seconds.

        Recompute, in seconds of one microbatch, counts `recomputed` (E,) times. Infinite where ranks can't hold all layers.
        With several layer classes also in units of their seconds and of the bytes that stay.
        """
        kinds = self.floor.classes
        found = [self._bisected(self.floor, each_row, recomputed)]
        if kinds > 1:
            for units in (each_row[:, :kinds], self.floor.rows.static[:, :kinds]):
                weighted = replace(self.floor, units=np.where((units > 0).all(axis=1, keepdims=True), units, 1.0))
                found.append(self._bisected(weighted, each_row, recomputed))
        return np.asarray(np.maximum.reduce(found))

    def _bisected(self, floor: LayerFloor, each_row: Array, recomputed: Array) -> Array:
        """Likewise, by the units of `floor`; only layers come in whole numbers."""
        layers, each = floor.whole_units, floor.least(each_row[:, : floor.classes])[:, None]
        ends = floor.at_ends(each_row[:, floor.classes :], self.pp)
        whole = np.floor if floor.units is None else np.asarray
        free, saving, price, most = self._memory(floor)
        price = price * recomputed[:, None]
        enough = whole(np.minimum(most, layers[:, None]) * (1 + 1e-9)).sum(axis=1) >= layers
        high = (ends + each * layers[:, None] + np.maximum(0.0, price * (layers[:, None] - saving))).max(axis=1)
        low = np.zeros_like(high)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            spare = middle[:, None] - ends
            plain, paying = spare / each, (spare + price * saving) / (each + price)
            held = np.where(plain <= free, plain, np.maximum(free, paying))
            held = np.clip(whole(np.minimum(held, most) * (1 + 1e-9)), 0.0, layers[:, None])
            fits = held.sum(axis=1) >= layers
            high, low = np.where(fits, middle, high), np.where(fits, low, middle)
        return np.where(enough, low, np.inf)

    def _memory(self, floor: LayerFloor) -> tuple[Array, Array, Array, Array]:
        """(E, P) each, in units of `floor`: layers that fit with the cheapest policy alone, those from which on others cost, seconds for each
        layer from there on, layers that fit at all.

        The second is less than the first, and below zero where other policies don't even leave room for their working
        memory, which is larger.
        """
        in_steady_state = np.minimum(self._microbatches[:, None], self.pp - np.arange(self.pp))
        alive = np.where(self._gpipe[:, None], self._microbatches[:, None], in_steady_state).astype(float)
        static = floor.layer_static[:, None] / (1 + constants.ALLOCATOR_SLACK.value)
        room, saving_room = floor.room(self.pp, saving=False), floor.room(self.pp, saving=True)
        plain_each = static + alive * floor.cheap_kept[:, None]
        free = np.maximum(0.0, room) / plain_each
        most = np.maximum(free, saving_room / (static + alive * floor.least_kept[:, None]))
        most = np.minimum(most, floor.host_layers(self.pp, self.costs.host_room_bytes))
        saving = np.where(np.isfinite(saving_room), saving_room, 0.0) / plain_each
        price = plain_each * floor.price[:, None] / alive
        return free, np.minimum(saving, free), price, np.maximum(0.0, most)
