"""The least time of the busiest rank, when all ranks together must hold all layers in their memory.

A rank of n layers takes at least n times the cheapest layer. Where n layers don't fit with the fastest policy, it also
takes at least the missing bytes times the lowest price of a saved byte, and at least the recompute of one layer. This
bound rises with n and is piecewise linear. The n that fit in a given time therefore have a closed form, and the time is found by bisection.
"""

from dataclasses import dataclass, replace

import numpy as np

from shardwright.base import Array
from shardwright.costmodel.tables import Rows

from .layer_floor import LayerFloor

_BISECTIONS = 30


@dataclass(frozen=True)
class RankBounds:
    """Entries (E,) of P ranks.

    `alive` (E, P): the number of microbatches for which a rank keeps a layer at one moment of the step, at least.
    `most_alive` (E, P): the same number, at most.
    """

    floor: LayerFloor
    alive: Array
    most_alive: Array
    host_room_bytes: float

    @property
    def pp(self) -> int:
        return int(self.alive.shape[1])

    def seconds(self, each_row: Rows, recomputed: Array) -> Array:
        """(E,): lower bound on the time of the busiest rank, where rows take `each_row` (E,) seconds.

        Recompute, in seconds of one microbatch, counts `recomputed` (E,) times. The bound is infinite where the ranks
        can't hold all layers. With several layer classes it is the largest of four bounds: by layers, by their
        seconds, by the bytes held over the step, and by the layers of the commonest class alone.
        """
        found = [self._bisected(self.floor, each_row, recomputed)]
        if self.floor.classes > 1:
            for units in (each_row.layers, self.floor.rows.static.layers):
                weighted = replace(self.floor, units=np.where((units > 0).all(axis=1, keepdims=True), units, 1.0))
                found.append(self._bisected(weighted, each_row, recomputed))
            common = int(self.floor.whole.argmax())
            alone = Rows(each_row.layers[:, common : common + 1], each_row.first, each_row.last)
            found.append(self._bisected(self.floor.of_class(common), alone, recomputed))
        return np.asarray(np.maximum.reduce(found))

    def _bisected(self, floor: LayerFloor, each_row: Rows, recomputed: Array) -> Array:
        """(E,): the same bound in the units of `floor`. Layers are whole numbers; other units are not."""
        layers, each = floor.whole_units, floor.least(each_row.layers)[:, None]
        ends = floor.at_ends(each_row, self.pp)
        whole = np.floor if floor.units is None else np.asarray
        free, saving, price, most = self._memory(floor)
        price, once = price * recomputed[:, None], (floor.least_spent * recomputed)[:, None]
        enough = whole(np.minimum(most, layers[:, None]) * (1 + 1e-9)).sum(axis=1) >= layers
        paid = np.maximum(once, price * (layers[:, None] - saving))
        high = (ends + each * layers[:, None] + paid).max(axis=1)
        low = np.zeros_like(high)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            spare = middle[:, None] - ends
            plain, paying = spare / each, np.minimum((spare + price * saving) / (each + price), (spare - once) / each)
            held = np.where(plain <= free, plain, np.maximum(free, paying))
            held = np.clip(whole(np.minimum(held, most) * (1 + 1e-9)), 0.0, layers[:, None])
            fits = held.sum(axis=1) >= layers
            high, low = np.where(fits, middle, high), np.where(fits, low, middle)
        return np.where(enough, low, np.inf)

    def _memory(self, floor: LayerFloor) -> tuple[Array, Array, Array, Array]:
        """Four arrays (E, P) in units of `floor`.

        They are: layers that fit with the fastest policy alone; layers from which on saving bytes costs time; seconds
        for each layer beyond that; layers that fit at all. The second is at most the first. It is below zero where the
        other policies leave no room even for their larger working memory.
        """
        static = floor.layer_static[:, None] / (1 + floor.rows.slack[:, None])
        room, saving_room = floor.room(self.pp, saving=False), floor.room(self.pp, saving=True)
        # at least a byte: with its optimizer and its activations on the host a layer may keep none
        plain_each, least_each = (
            np.maximum(1.0, static + self.alive * kept[:, None]) for kept in (floor.cheap_kept, floor.least_kept)
        )
        free = np.maximum(0.0, room) / plain_each
        most = np.maximum(free, saving_room / least_each)
        most = np.minimum(most, floor.host_layers(self.pp, self.host_room_bytes))
        saving = np.where(np.isfinite(saving_room), saving_room, 0.0) / plain_each
        price = plain_each * floor.price[:, None] / self.most_alive
        return free, np.minimum(saving, free), price, np.maximum(0.0, most)
