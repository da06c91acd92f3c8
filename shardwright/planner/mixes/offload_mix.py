"""The cheapest strategies of a stage whose activations may go to the host: a knapsack with many items for each layer.

With symbols of recompute_mix.py, strategy p of a layer of class k also keeps h_kp bytes on the host for each microbatch in flight.
For each limit of the working bytes:

    minimise sum n_kp c_kp    subject to    sum n_kp a_kp <= room,    sum n_kp h_kp <= host room,    sum_p n_kp = n_k

Its relaxation, with any n_kp >= 0, lies on the lower convex hulls of the points (a_kp, c_kp) of each class: layers move along the
hulls, the cheapest byte first, until they fit. At most one layer is then divided between two strategies. That layer takes the
cheapest single strategy that fits. The relaxation is the lower bound; the found mix is at most one layer's move above it.

Where the host's room binds, a byte there gets a price: c_kp + price x h_kp. By Lagrangian duality the minimum less price x host
room stays a lower bound for every price.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from shardwright.base import Array, IntArray

from .recompute_mix import Mixes, Room, useful_policies

# Prices of a host byte that are tried, as multiples of the dearest one that pays.
_PRICES = tuple(4.0**-step for step in range(6))
_ROUNDING = 1e-12


@dataclass(frozen=True)
class OffloadMixes(Mixes):
    """Mixes with a lower bound `least` (Q, V) on the seconds of all that fit; infinite where none fits."""

    least: Array


class _Move(NamedTuple):
    """A step of a class's layers along its hull, from strategy `before` to `after`: bytes freed and seconds added by a layer."""

    kind: int
    before: int
    after: int
    freed: float
    added: float


@dataclass(frozen=True)
class _Cells:
    """Ranges of layers at pipeline positions (C): layers of each class (C, K), and bytes on device and host for one microbatch."""

    layers: IntArray
    room: Array
    host_room: Array

    def __getitem__(self, index: IntArray) -> "_Cells":
        return _Cells(self.layers[index], self.room[index], self.host_room[index])


class _Found(NamedTuple):
    """The mixes of cells (C): seconds, infinite where none was found that fits; counts (C, K, P); lower bounds."""

    seconds: Array
    counts: IntArray
    least: Array


@dataclass(frozen=True)
class OffloadMixSolver:
    """Layer classes K by strategies P: `seconds`, `kept`, `working`, `on_host` (K, P). Only `allowed` strategies are used."""

    seconds: Array
    kept: Array
    working: Array
    on_host: Array
    allowed: list[int]

    def solve(self, layers: IntArray, room: Room, wanted: Array | None = None) -> OffloadMixes:
        """Return cheap mixes for `layers` (V, K), layers of each class, and what no mix is below.

        `wanted` (Q, V): where to look; elsewhere nothing fits.
        """
        return self._solve(layers, room, wanted, divide=True)

    def least(self, layers: IntArray, room: Room, wanted: Array | None = None) -> Array:
        """(Q, V): lower bound on the seconds of all mixes that fit."""
        return self._solve(layers, room, wanted, divide=False).least

    def _solve(self, layers: IntArray, room: Room, wanted: Array | None, *, divide: bool) -> OffloadMixes:
        places, kinds = room.moving.shape
        cells = np.arange(places * kinds) if wanted is None else np.flatnonzero(wanted)
        found = _Found(
            np.full(places * kinds, np.inf),
            np.zeros((places * kinds, *self.kept.shape), dtype=np.int64),
            np.full(places * kinds, np.inf),
        )
        held, on_host = layers[cells % kinds], room.host_activations.reshape(-1)[cells]
        best: _Found | None = None
        for limit in np.unique(self.working[self.useful]) if len(cells) else ():
            usable = self.useful & (self.working <= limit)
            if usable.any(axis=1).all():
                of_cells = _Cells(held, room.activations(float(limit)).reshape(-1)[cells], on_host)
                mixes = self._within(of_cells, usable, divide)
                best = mixes if best is None else _cheaper(best, mixes)
        if best is not None:
            for whole, part in zip(found, best, strict=True):
                whole[cells] = part
        counts = found.counts.reshape(places, kinds, *self.kept.shape)
        return OffloadMixes(found.seconds.reshape(places, kinds), counts, found.least.reshape(places, kinds))

    @cached_property
    def useful(self) -> Array:
        """(K, P): the allowed strategies that no other one beats in seconds and in bytes of all three kinds."""
        return useful_policies(np.stack([self.seconds, self.kept, self.working, self.on_host]), self.allowed)

    def _within(self, cells: _Cells, usable: Array, divide: bool) -> _Found:
        found = self._priced(cells, usable, 0.0, divide)
        left = np.flatnonzero(divide & np.isfinite(found.least) & np.isinf(found.seconds))
        for price in self._prices(usable) if len(left) else ():
            other = self._priced(cells[left], usable, price, divide)
            better = other.seconds < found.seconds[left]
            found.seconds[left] = np.where(better, other.seconds, found.seconds[left])
            found.counts[left] = np.where(better[:, None, None], other.counts, found.counts[left])
            found.least[left] = np.maximum(found.least[left], other.least)
        return found

    def _prices(self, usable: Array) -> list[float]:
        """Return prices in seconds for a byte on the host, at which nearly all or nearly nothing goes there."""
        fewest = np.where(usable, self.on_host, np.inf).min(axis=1, keepdims=True)
        spread = np.where(usable, self.seconds, 0.0).max() - np.where(usable, self.seconds, np.inf).min()
        step = np.where(usable & (self.on_host > fewest), self.on_host - fewest, np.inf).min()
        return [float(spread / step * share) for share in _PRICES] if np.isfinite(step) else []

    def _priced(self, cells: _Cells, usable: Array, price: float, divide: bool) -> _Found:
        """Solve with a price of the host's bytes. Mixes that do not fit the host have infinite seconds."""
        costs = self.seconds + price * self.on_host
        start, moves = self._hulls(costs, usable)
        classes = np.arange(len(start))
        over = cells.layers @ self.kept[classes, start] - cells.room
        counts = np.zeros((len(over), *usable.shape), dtype=np.int64)
        counts[:, classes, start] = cells.layers
        least: Array = np.asarray(cells.layers @ costs[classes, start])
        for move in moves:
            held = cells.layers[:, move.kind]
            needed = np.clip(over, 0.0, held * move.freed) / move.freed
            least += needed * move.added
            whole = np.floor(needed * (1 + 1e-12)).astype(np.int64)
            counts[:, move.kind, move.before] -= whole
            counts[:, move.kind, move.after] += whole
            divided = np.flatnonzero(divide & (over > whole * move.freed))
            self._divide(counts, cells.room, divided[whole[divided] < held[divided]], move, costs, usable)
            over = np.asarray(over - needed * move.freed)
        fits = over <= _ROUNDING * np.abs(cells.room)
        kept, on_host = (np.einsum("ckp,kp->c", counts, part) for part in (self.kept, self.on_host))
        seconds = np.einsum("ckp,kp->c", counts, self.seconds)
        least = least - (price * np.maximum(cells.host_room, 0.0) if price else 0.0)
        least = np.where(fits & (cells.host_room >= 0), least, np.inf)
        return _Found(np.where((kept <= cells.room) & (on_host <= cells.host_room), seconds, np.inf), counts, least)

    def _divide(self, counts: IntArray, room: Array, cells: IntArray, move: _Move, costs: Array, usable: Array) -> None:
        """Give the layer that the relaxation divides in `cells` the cheapest strategy that fits. Changes `counts` (C, K, P)."""
        if not len(cells):
            return
        counts[cells, move.kind, move.before] -= 1
        left = room[cells] - np.einsum("ckp,kp->c", counts[cells], self.kept)
        fits = usable[move.kind] & (self.kept[move.kind] <= left[:, None])
        chosen = np.where(fits, costs[move.kind], np.inf).argmin(axis=1)
        counts[cells, move.kind, np.where(fits.any(axis=1), chosen, move.after)] += 1

    def _hulls(self, costs: Array, usable: Array) -> tuple[IntArray, list[_Move]]:
        """Return the cheapest strategy of each class (K,), and the moves along all hulls, the cheapest freed byte first."""
        start, moves = [], []
        for kind in range(len(costs)):
            points = sorted(np.flatnonzero(usable[kind]), key=lambda p: (costs[kind, p], self.kept[kind, p]))
            at = int(points[0])
            start.append(at)
            while True:
                freed = self.kept[kind, at] - self.kept[kind]
                further = usable[kind] & (freed > 0)
                if not further.any():
                    break
                slope = np.where(further, (costs[kind] - costs[kind, at]) / np.where(further, freed, 1.0), np.inf)
                after = int(np.lexsort((-freed, slope))[0])
                moves.append(_Move(kind, at, after, float(freed[after]), float(costs[kind, after] - costs[kind, at])))
                at = after
        return np.array(start), sorted(moves, key=lambda move: move.added / move.freed)


def _cheaper(one: _Found, other: _Found) -> _Found:
    better = other.seconds < one.seconds
    return _Found(
        np.where(better, other.seconds, one.seconds),
        np.where(better[:, None, None], other.counts, one.counts),
        np.minimum(one.least, other.least),
    )
