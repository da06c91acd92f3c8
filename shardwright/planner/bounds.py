"""Lower bounds of the step of every entry of the space at once, infinite where no plan of the entry fits its memory.

Symbols: P ranks, M microbatches; a rank's x is forward + backward of one microbatch over all its rows; X = sum of x over
ranks; m the largest x. What each bound rests on:

- m >= m*, the smallest m at which the ranks can hold all layers: a rank of n layers takes at least n times the cheapest
  class, and when n layers don't fit with the policy that costs least, at least the needed bytes times the lowest price
  of a saved byte. That is rising and piecewise linear in n, so the n that fit in m have a closed form and m* is bisected.
- 1F1B: with U_s, D_s the round trips above and below the slowest stage s, T >= U_s + x_s + 2 D_s + (M - 1 - w_s) m, and
  as no stage takes more than m, D_s >= X - (s + 1) m. Both together: T >= 2 X + (M - P - 1) m + 2 (P - 1) c for M > P.
- GPipe: T >= X + (M - 1) m + 2 (P - 1) c.
- any schedule: T >= M m, and T >= X + 2 (stages - 1) c for the first microbatch.
- interleaved: see interleaved_bounds.py.

Every such path ends on the first rank, so that its tail of reductions and the mean optimizer come after all of them.
"""

from dataclasses import dataclass

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
    space, whole = costs.space, ranges.counts[ranges.kind_of[0, -1]]
    bounds = np.full(len(space), np.inf)
    shape = space.column("pp") * (1 + space.stages_per_rank.max()) + space.stages_per_rank
    for _, first in zip(*np.unique(shape, return_index=True), strict=True):
        entries = np.flatnonzero(shape == shape[first])
        pp, chunks = int(space.column("pp")[first]), int(space.stages_per_rank[first])
        floor = LayerFloor(costs.rows[space.base_index[entries]], whole, allowed)
        if space.schedule[first] == _INTERLEAVED:
            path = InterleavedBounds(costs, ranges, floor, entries, pp, chunks).bounds()
            path = np.maximum(path, floor.total_seconds + 2 * floor.rows.send * (pp * chunks - 1))
        else:
            path = _FlatBounds(costs, ranges, floor, entries, pp).bounds()
        bounds[entries] = path + _after_seconds(floor, pp)
    return bounds


def _after_seconds(floor: LayerFloor, pp: int) -> Array:
    """(E,): the first rank's tail, of the embedding and at least one layer; the mean rank's optimizer."""
    rows, kinds = floor.rows, floor.classes
    tails, each = rows.last_backward[..., floor.allowed].min(axis=-1), rows.optimizer
    if pp == 1:
        tail = tails[:, :kinds] @ floor.whole + tails[:, kinds:].sum(axis=1)
    else:
        tail = tails[:, kinds] + tails[:, :kinds].min(axis=1)
    return np.asarray(tail + (each[:, :kinds] @ floor.whole + each[:, kinds:].sum(axis=1)) / pp)


@dataclass(frozen=True)
class _FlatBounds:
    """The entries (E,) with one stage on each of P ranks. Arrays are (E,) or (E, P)."""

    costs: SpaceCosts
    ranges: LayerRanges
    floor: LayerFloor
    entries: IntArray
    pp: int

    def bounds(self) -> Array:
        """(E,) seconds without tails and optimizers."""
        pp, floor, rows = self.pp, self.floor, self.floor.rows
        microbatches = self._microbatches.astype(float)
        total, fitting = floor.total_seconds, self._largest_rank_seconds()
        largest = np.where(np.isfinite(fitting), fitting, 0.0)
        once = total + 2 * rows.send * (pp - 1)
        gathers = rows.first_forward[:, : floor.classes] @ floor.whole + rows.first_forward[:, floor.classes :].sum(
            axis=1
        )
        steady = once + total + (microbatches - pp - 1) * np.maximum(largest, total / pp)
        path = np.where(microbatches > pp, np.maximum(once, steady), once) + gathers
        path = np.where(self._gpipe, once + (microbatches - 1) * largest, path)
        return np.where(np.isfinite(fitting), np.maximum(path, microbatches * largest), np.inf)

    @property
    def _microbatches(self) -> IntArray:
        return self.costs.space.column("microbatches")[self.entries]

    @property
    def _gpipe(self) -> Array:
        return np.asarray(self.costs.space.schedule[self.entries] == _GPIPE)

    def _largest_rank_seconds(self) -> Array:
        """(E,): m*, infinite where the ranks can't hold all layers."""
        layers, ends = self.ranges.layer_count, self.floor.at_ends(self.floor.end_row_seconds, self.pp)
        each = self.floor.row_seconds.min(axis=1)[:, None]
        free, saving, price, most = self._memory()
        enough = np.floor(np.minimum(most, layers) * (1 + 1e-9)).sum(axis=1) >= layers
        high = (ends + each * layers + np.maximum(0.0, price * (layers - saving))).max(axis=1)
        low = np.zeros_like(high)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            spare = middle[:, None] - ends
            plain, paying = spare / each, (spare + price * saving) / (each + price)
            held = np.where(plain <= free, plain, np.maximum(free, paying))
            held = np.clip(np.floor(np.minimum(held, most) * (1 + 1e-9)), 0, layers)
            fits = held.sum(axis=1) >= layers
            high, low = np.where(fits, middle, high), np.where(fits, low, middle)
        return np.where(enough, low, np.inf)

    def _memory(self) -> tuple[Array, Array, Array, Array]:
        """(E, P) each: layers that fit with the cheapest policy alone, those from which on others cost, seconds for each
        layer from there on, layers that fit at all.

        The second is less than the first, and below zero where other policies don't even leave room for their working
        memory, which is larger.
        """
        floor = self.floor
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
