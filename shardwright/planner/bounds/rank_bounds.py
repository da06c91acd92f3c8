"""The least that the busiest rank takes, when all ranks together must hold all layers in their memory.

A rank of n layers takes at least n times the least layer, and when n layers don't fit with the policy that costs least, at
least the needed bytes times the lowest price of a saved byte. That is rising and piecewise linear in n, so that the n that
fit in a given time have a closed form, and the time is bisected.
"""

from dataclasses import dataclass, replace

import numpy as np

from shardwright.base import Array
from shardwright.costmodel.tables import Rows

from .layer_floor import LayerFloor

_BISECTIONS = 30


@dataclass(frozen=True)
class RankBounds:
    """Entries (E,) of P ranks. `alive`, `most_alive` (E, P): for how many microbatches a rank keeps a layer, at least, and
    at most, at one moment of the step."""

    floor: LayerFloor
    alive: Array
    most_alive: Array
    host_room_bytes: float

    @property
    def pp(self) -> int:
        return int(self.alive.shape[1])

    def seconds(self, each_row: Rows, recomputed: Array) -> Array:
        """(E,): the least that the rank with the most takes, where rows take `each_row` (E,) seconds.

        Recompute, in seconds of one microbatch, counts `recomputed` (E,) times. Infinite where ranks can't hold all layers.
        With several layer classes also in units of their seconds and of the bytes that stay.
        """
        found = [self._bisected(self.floor, each_row, recomputed)]
        if self.floor.classes > 1:
            for units in (each_row.layers, self.floor.rows.static.layers):
                weighted = replace(self.floor, units=np.where((units > 0).all(axis=1, keepdims=True), units, 1.0))
                found.append(self._bisected(weighted, each_row, recomputed))
        return np.asarray(np.maximum.reduce(found))

    def _bisected(self, floor: LayerFloor, each_row: Rows, recomputed: Array) -> Array:
        """Likewise, by the units of `floor`; only layers come in whole numbers."""
        layers, each = floor.whole_units, floor.least(each_row.layers)[:, None]
        ends = floor.at_ends(each_row, self.pp)
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
        """(E, P) each, in units of `floor`: layers that fit with the cheapest policy alone, those from which on others
        cost, seconds for each
        layer from there on, layers that fit at all.

        The second is less than the first, and below zero where other policies don't even leave room for their working
        memory, which is larger.
        """
        static = floor.layer_static[:, None] / (1 + floor.rows.slack[:, None])
        room, saving_room = floor.room(self.pp, saving=False), floor.room(self.pp, saving=True)
        plain_each = static + self.alive * floor.cheap_kept[:, None]
        free = np.maximum(0.0, room) / plain_each
        most = np.maximum(free, saving_room / (static + self.alive * floor.least_kept[:, None]))
        most = np.minimum(most, floor.host_layers(self.pp, self.host_room_bytes))
        saving = np.where(np.isfinite(saving_room), saving_room, 0.0) / plain_each
        price = plain_each * floor.price[:, None] / self.most_alive
        return free, np.minimum(saving, free), price, np.maximum(0.0, most)
