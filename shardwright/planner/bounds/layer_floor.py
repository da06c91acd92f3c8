"""Minimum costs of a layer, for the row costs of many entries at once. The lower bounds are built from them."""

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.costmodel.tables import HeldBytes, RowCosts, Rows, ends_of
from shardwright.planner.space import LayerRanges


@dataclass(frozen=True)
class LayerFloor:
    """Minima over layer classes and allowed policies; `rows` and `room_bytes` belong to entries (E,).

    `units` (E, K) weighs a layer of each class where a bound counts layers; None weighs every layer as 1. Any units
    give a valid bound: the ranks must hold all units of the model, and each unit costs at least the minimum over
    classes. Units in proportion to a cost make the minimum of that cost exact and those of the other costs looser.
    `on_ranks` (E, P, K): the classes of which a rank may hold layers; None where each may hold all. Minima over classes are then those
    of each rank, (E, P); otherwise they are (E, 1). `folded`: the last stage lies on the first rank, with the head, as in a V. `spread`: all stages share embedding and head.
    """

    rows: RowCosts
    room_bytes: Array
    ranges: LayerRanges
    allowed: list[int]
    units: Array | None = None
    on_ranks: Array | None = None
    folded: bool = False
    spread: bool = False

    _rooms: dict[int, tuple[Array, Array]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __getitem__(self, entries: IntArray) -> "LayerFloor":
        """Return the floor of some of the entries."""
        units, on_ranks = (None if each is None else each[entries] for each in (self.units, self.on_ranks))
        return replace(
            self, rows=self.rows[entries], room_bytes=self.room_bytes[entries], units=units, on_ranks=on_ranks
        )

    @property
    def classes(self) -> int:
        return int(self.ranges.counts.shape[1])

    def of_class(self, index: int) -> "LayerFloor":
        """Return the floor of the model with the layers of one class alone, which costs no more."""
        one = slice(index, index + 1)
        return replace(
            self,
            rows=self.rows.of_classes(one),
            ranges=replace(self.ranges, counts=self.ranges.counts[:, one]),
            units=None,
            on_ranks=None,
        )

    @property
    def whole(self) -> IntArray:
        """(K,): layers of each class in the model."""
        return self.ranges.whole

    @property
    def whole_units(self) -> Array:
        """(E,): units of the whole model."""
        return np.asarray(
            (np.ones((len(self.rows.send), self.classes)) if self.units is None else self.units) @ self.whole
        )

    def lowest(self, values: Array) -> Array:
        """(E, 1) or (E, P): minimum over classes of `values` (E, K)."""
        if self.on_ranks is None:
            return np.asarray(values.min(axis=1, keepdims=True))
        return np.asarray(np.where(self.on_ranks, values[:, None], np.inf).min(axis=2))

    def least(self, values: Array) -> Array:
        """(E, 1) or (E, P): minimum over classes of `values` (E, K) per unit."""
        return self.lowest(values if self.units is None else values / self.units)

    @cached_property
    def row_seconds(self) -> Rows:
        """(E,): forward and cheapest backward of one microbatch."""
        return self.rows.forward + self.cheapest(self.rows.backward)

    def cheapest(self, values: Rows) -> Rows:
        """The minimum of each row over the allowed policies."""
        return values.cheapest(self.allowed)

    def mean_line(self, values: Array) -> tuple[Array, Array]:
        """(E,), (E,): `each` and `less`; n neighbouring layers have at least `each * n - less` of `values` (E, K).

        `each` is the value of the mean layer. Where classes alternate, neighbouring layers can't all be of the cheapest
        class. The line lies below every range of the model and is close for long ones.
        """
        each = np.asarray(values @ self.whole / self.whole.sum())
        less = each[:, None] * self.ranges.lengths - values @ self.ranges.counts.T
        return each, np.asarray(less.max(axis=1))

    def range_seconds(self, numbers: IntArray, ranges: IntArray) -> Array:
        """(E, P, J): lower bound on the time of `numbers` (E, P, J) of layers in `ranges` (E, 1, 1) ranges of a rank for one microbatch."""
        each, less = (part[:, None, None] for part in self.mean_line(self.row_seconds.layers))
        cheapest = self.lowest(self.row_seconds.layers)[..., None] * numbers
        return np.asarray(np.maximum(cheapest, each * numbers - ranges * less))

    def whole_sum(self, values: Rows) -> Array:
        """(E,): `values` (E,) summed over the whole model."""
        return values.of_model(self.whole)

    @cached_property
    def tails(self) -> Rows:
        """(E,): the shortest tail of reductions over the allowed policies."""
        return self.cheapest(self.rows.last_backward)

    def first_rank_tail(self, pp: int) -> Array:
        """(E,): the tail of the embedding and one layer at least; the tail of all rows where there is one rank."""
        if pp == 1:
            return self.whole_sum(self.tails)
        return np.asarray(self.tails.layers.min(axis=1) + self.at_ends(self.tails, pp)[:, 0])

    @property
    def total_seconds(self) -> Array:
        """(E,): one microbatch through the whole model."""
        return self.whole_sum(self.row_seconds)

    def at_ends(self, values: Rows, pp: int) -> Array:
        """(E, P): what a rank has of the embedding's and the head's values."""
        return np.asarray(values.ends @ self._ends(pp).T)

    def largest_at_ends(self, values: Rows, pp: int) -> Array:
        """(E, P): the same, but the larger value where one rank has both."""
        return np.asarray((values.ends[:, None] * self._ends(pp)).max(axis=-1))

    def _ends(self, pp: int) -> Array:
        """(P, 2): the shares of the embedding and of the head that a rank has."""
        ends = ends_of(pp, spread=self.spread)
        if self.folded and not self.spread:
            ends[:, 1] = ends[:, 0]
        return ends

    @cached_property
    def _kept_and_spent(self) -> tuple[Array, Array, Array]:
        """(E, K), (E, K, A), (E, K, A): bytes kept by the fastest policy; bytes saved and seconds added by others."""
        kept = self.rows.activation.layers[..., self.allowed]
        seconds = self.rows.backward.layers[..., self.allowed]
        cheap = np.take_along_axis(kept, seconds.argmin(axis=-1)[..., None], axis=-1)
        return cheap[..., 0], cheap - kept, seconds - seconds.min(axis=-1, keepdims=True)

    @property
    def cheap_kept(self) -> Array:
        """(E, 1) or (E, P): bytes that a layer keeps for each microbatch under the fastest policy."""
        return self.least(self._kept_and_spent[0])

    @property
    def least_kept(self) -> Array:
        """(E, 1) or (E, P): bytes that a layer keeps for each microbatch at least."""
        return self.least(self.rows.activation.layers[..., self.allowed].min(axis=-1))

    @property
    def most_saved(self) -> Array:
        """(E, 1) or (E, P): upper bound on the bytes that recomputing one layer saves for each microbatch."""
        return np.maximum(0.0, -self.lowest(-self._kept_and_spent[1].max(axis=2)))

    @cached_property
    def price(self) -> Array:
        """(E, 1) or (E, P): the lowest cost in seconds of a saved byte of one microbatch; 0 where no policy saves bytes."""
        _, saved, spent = self._kept_and_spent
        with np.errstate(divide="ignore", invalid="ignore"):
            price = self.lowest(np.where(saved > 0, spent / saved, np.inf).min(axis=2))
        return np.where(np.isfinite(price), price, 0.0)

    @cached_property
    def least_spent(self) -> Array:
        """(E, 1) or (E, P): the fewest seconds for which one layer saves any byte; 0 where no policy saves bytes."""
        _, saved, spent = self._kept_and_spent
        found = self.lowest(np.where(saved > 0, spent, np.inf).min(axis=2))
        return np.where(np.isfinite(found), found, 0.0)

    @property
    def layer_static(self) -> Array:
        """(E, 1) or (E, P): bytes of a layer that are held over the whole step."""
        return self.least(self.rows.static.layers)

    def room(self, pp: int, *, saving: bool) -> Array:
        """(E, P): device bytes for layers, divided by 1 + allocator slack, without the ends and the working bytes of
        the largest row.

        `saving`: some layer uses a policy that keeps less than the fastest one, and so needs more working bytes.
        """
        if pp not in self._rooms:
            self._rooms[pp] = self._both_rooms(pp)
        return self._rooms[pp][saving]

    def _both_rooms(self, pp: int) -> tuple[Array, Array]:
        rows, working = self.rows, self.cheapest(self.rows.working)
        held = HeldBytes(
            static=self.at_ends(rows.static, pp),
            step=np.zeros(1),
            gather_window=self._least_of_largest(rows.gather_window, pp),
            reduce_buffer=self._least_of_largest(rows.reduce_buffer, pp),
            slack=rows.slack[:, None],
        )
        left = held.activation_room(self.room_bytes[:, None]) - self.at_ends(rows.activation, pp)
        at_ends = self.largest_at_ends(working, pp)
        plain, saving = (
            left - np.maximum(of_layer, at_ends) for of_layer in (self.lowest(working.layers), self._saving_working)
        )
        return plain, saving

    def _least_of_largest(self, values: Rows, pp: int) -> Array:
        """(E, P): lower bound on the value of a rank's largest row."""
        return np.asarray(np.maximum(self.lowest(values.layers), self.largest_at_ends(values, pp)))

    @property
    def _saving_working(self) -> Array:
        """(E, 1) or (E, P): least working bytes of a policy that keeps less than the fastest one; infinite if none does."""
        working = self.rows.working.layers[..., self.allowed]
        return self.lowest(np.where(self._kept_and_spent[1] > 0, working, np.inf).min(axis=2))

    def host_layers(self, pp: int, room_bytes: float) -> Array:
        """(E, P): number of layers whose optimizer state fits the rank's share of the host."""
        room = room_bytes - self.at_ends(self.rows.host, pp)
        each = self.least(self.rows.host.layers)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(each > 0, room / each, np.where(room >= 0, np.inf, -1.0))
