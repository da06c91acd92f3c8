"""The least time of the busiest rank, when all ranks together must hold all layers in their memory.

A rank of n layers takes at least n times the cheapest layer. Where n layers don't fit with the fastest policy, it also
takes at least the missing bytes times the lowest price of a saved byte, and at least the recompute of one layer. This
bound rises with n and is piecewise linear. The n that fit in a given time therefore have a closed form, and the time is found by bisection.
"""

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.costmodel.tables import Rows

from .bisection import least_that_holds
from .layer_floor import LayerFloor


class _Held(NamedTuple):
    """Layers of ranks, (E, P) each, in units of `floor`.

    `free`: layers that fit with the fastest policy alone. `saving`: layers from which on saving bytes costs time; at most
    `free`, and below zero where the other policies leave no room even for their larger working memory. `price`: seconds for
    each layer beyond that. `most`: layers that fit at all.
    """

    floor: LayerFloor
    free: Array
    saving: Array
    price: Array
    most: Array


@dataclass(frozen=True)
class _Ranks:
    """What ranks need for their layers, (E, 1) or (E, P) each: see `_Held`.

    `each`: seconds of a layer. `ends`: of embedding and head. `once`: of the recompute of one layer. `whole`: whether the
    units are whole layers.
    """

    layers: Array
    whole: bool
    each: Array
    ends: Array
    free: Array
    saving: Array
    price: Array
    once: Array
    most: Array

    def __getitem__(self, entries: IntArray) -> "_Ranks":
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        return _Ranks(**{name: part if name == "whole" else part[entries] for name, part in parts.items()})

    def rounded(self, units: Array) -> Array:
        return np.asarray(np.floor(units * (1 + 1e-9)) if self.whole else units * (1 + 1e-9))

    def alone(self) -> Array:
        """(E,): upper bound on the time of one rank with all layers."""
        paid = np.maximum(self.once, self.price * (self.layers - self.saving))
        return np.asarray((self.ends + self.each * self.layers + paid).max(axis=1))

    def hold(self, seconds: Array) -> Array:
        """(E,): whether the ranks hold all layers in `seconds` (E,)."""
        spare = seconds[:, None] - self.ends
        plain = units_in(spare, self.each)
        paying = np.minimum(
            units_in(spare + self.price * self.saving, self.each + self.price), units_in(spare - self.once, self.each)
        )
        held = np.where(plain <= self.free, plain, np.maximum(self.free, paying))
        held = np.clip(self.rounded(np.minimum(held, self.most)), 0.0, self.layers)
        return np.asarray(held.sum(axis=1) >= self.layers[:, 0])


def units_in(spare: Array, each: Array) -> Array:
    """Return the units of `each` seconds for which `spare` seconds suffice. Any number takes no time where a unit takes none,
    as the backward of a frozen layer does."""
    takes = each > 0
    return np.asarray(np.where(takes, spare / np.where(takes, each, 1.0), np.where(spare < 0, -np.inf, np.inf)))


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

    def __getitem__(self, entries: IntArray) -> "RankBounds":
        """Return the bounds of some of the entries."""
        return RankBounds(self.floor[entries], self.alive[entries], self.most_alive[entries], self.host_room_bytes)

    @property
    def pp(self) -> int:
        return int(self.alive.shape[1])

    def seconds(self, each_row: Rows, recomputed: Array, limit: Array | float = np.inf) -> Array:
        """(E,): lower bound on the time of the busiest rank, where rows take `each_row` (E,) seconds.

        Recompute, in seconds of one microbatch, counts `recomputed` (E,) times. The bound is infinite where the ranks
        can't hold all layers. With several layer classes it is the largest of four bounds: by layers, by their
        seconds, by the bytes held over the step, and by the layers of the commonest class alone. A bound that is not below
        `limit` (E,) may be that limit.
        """
        if self.floor.classes == 1:
            return self._bisected(self._plain, each_row, recomputed, limit)
        common = int(self.floor.whole.argmax())
        alone = Rows(each_row.layers[:, common : common + 1], each_row.first, each_row.last)
        found = self._bisected(self._of_commonest, alone, recomputed, limit)
        near = np.flatnonzero(found < limit)
        if len(near):
            some = self if len(near) == len(found) else self[near]
            each, times, below = each_row[near], recomputed[near], np.broadcast_to(limit, found.shape)[near]
            for units in (some._in_static_bytes, some._plain, some._in_units(each.layers)):
                found[near] = np.maximum(found[near], some._bisected(units, each, times, below))
        return found

    @cached_property
    def _plain(self) -> "_Held":
        return self._memory(self.floor)

    @cached_property
    def _in_static_bytes(self) -> "_Held":
        return self._in_units(self.floor.rows.static.layers)

    @cached_property
    def _of_commonest(self) -> "_Held":
        return self._memory(self.floor.of_class(int(self.floor.whole.argmax())))

    def _in_units(self, units: Array) -> "_Held":
        return self._memory(replace(self.floor, units=np.where((units > 0).all(axis=1, keepdims=True), units, 1.0)))

    def _bisected(self, held: "_Held", each_row: Rows, recomputed: Array, limit: Array | float) -> Array:
        """(E,): the same bound in the units of a floor. Layers are whole numbers; other units are not."""
        floor, free, saving, price, most = held
        layers = floor.whole_units
        ranks = _Ranks(
            layers=layers[:, None],
            whole=floor.units is None,
            each=floor.least(each_row.layers),
            ends=floor.at_ends(each_row, self.pp),
            free=free,
            saving=saving,
            price=price * recomputed[:, None],
            once=floor.least_spent * recomputed[:, None],
            most=np.minimum(most, layers[:, None]),
        )
        enough = ranks.rounded(ranks.most).sum(axis=1) >= layers
        low = (ranks.ends.sum(axis=1) + ranks.each.min(axis=1) * layers) / self.pp
        high = np.minimum(ranks.alone(), limit)
        low = np.where(ranks.hold(high), np.minimum(low, high), high)
        left = np.flatnonzero(enough & (low < high))
        if len(left):
            low[left] = least_that_holds(ranks[left].hold, low[left], high[left])
        return np.where(enough, low, np.inf)

    def _memory(self, floor: LayerFloor) -> "_Held":
        static = floor.layer_static / (1 + floor.rows.slack[:, None])
        room, saving_room = floor.room(self.pp, saving=False), floor.room(self.pp, saving=True)
        # at least a byte: with its optimizer and its activations on the host a layer may keep none
        plain_each, least_each = (
            np.maximum(1.0, static + self.alive * kept) for kept in (floor.cheap_kept, floor.least_kept)
        )
        free = np.maximum(0.0, room) / plain_each
        most = np.maximum(free, saving_room / least_each)
        most = np.minimum(most, floor.host_layers(self.pp, self.host_room_bytes))
        saving = np.where(np.isfinite(saving_room), saving_room, 0.0) / plain_each
        price = plain_each * floor.price / self.most_alive
        return _Held(floor, free, np.minimum(saving, free), price, np.maximum(0.0, most))
