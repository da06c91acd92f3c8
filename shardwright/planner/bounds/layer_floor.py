"""The least that any layer takes, by row costs of many entries at once: what lower bounds are made of."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.costmodel.tables import HeldBytes, RowCosts, Rows, ends_of
from shardwright.planner.space import LayerRanges


@dataclass(frozen=True)
class LayerFloor:
    """Minima over layer classes and allowed policies; `rows` and `room_bytes` are of entries (E,).

    `units` (E, K): what a layer of each class counts for where a bound says "a layer"; None: each for one. Any units give a
    valid bound: ranks must hold all units of the model, and a unit takes at least the least of any class. Units in
    proportion to a cost make that cost exact and the others' least looser.
    """

    rows: RowCosts
    room_bytes: Array
    ranges: LayerRanges
    allowed: list[int]
    units: Array | None = None

    @property
    def classes(self) -> int:
        return int(self.ranges.counts.shape[1])

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

    def least(self, values: Array) -> Array:
        """(E,): the least of `values` (E, K) for one unit."""
        return np.asarray((values if self.units is None else values / self.units).min(axis=1))

    @cached_property
    def row_seconds(self) -> Rows:
        """(E,): forward and cheapest backward of one microbatch."""
        return self.rows.forward + self.cheapest(self.rows.backward)

    def cheapest(self, values: Rows) -> Rows:
        """Of each row the least under any allowed policy."""
        return Rows(values.layers[..., self.allowed].min(axis=-1), values.first, values.last)

    def mean_line(self, values: Array) -> tuple[Array, Array]:
        """(E,), (E,): n neighbouring layers have at least `each * n - less` of `values` (E, K), `each` that of the mean layer.

        Classes that take turns can't all be the least: the line lies below every range of the model, close to long ones.
        """
        each = np.asarray(values @ self.whole / self.whole.sum())
        less = each[:, None] * self.ranges.lengths - values @ self.ranges.counts.T
        return each, np.asarray(less.max(axis=1))

    def range_seconds(self, numbers: IntArray, ranges: int) -> Array:
        """(E, ...): the least that `numbers` (1, ...) of layers in so many ranges take for one microbatch."""
        shape = (-1, *(1,) * (numbers.ndim - 1))
        each, less = self.mean_line(self.row_seconds.layers)
        cheapest = self.row_seconds.layers.min(axis=1).reshape(shape) * numbers
        return np.asarray(np.maximum(cheapest, each.reshape(shape) * numbers - ranges * less.reshape(shape)))

    def whole_sum(self, values: Rows) -> Array:
        """(E,): `values` (E,) summed over the whole model."""
        return np.asarray(values.layers @ self.whole + values.first + values.last)

    @cached_property
    def tails(self) -> Rows:
        """(E,): the shortest tail of reductions that any policy leaves."""
        return self.cheapest(self.rows.last_backward)

    def first_rank_tail(self, pp: int) -> Array:
        """(E,): the tail of the embedding and at least one layer; of all rows where there is one rank."""
        if pp == 1:
            return self.whole_sum(self.tails)
        return np.asarray(self.tails.first + self.tails.layers.min(axis=1))

    @property
    def total_seconds(self) -> Array:
        """(E,): one microbatch through the whole model."""
        return self.whole_sum(self.row_seconds)

    def at_ends(self, values: Rows, pp: int) -> Array:
        """(E, P): the embedding's on the first rank, the head's on the last."""
        return np.asarray(values.ends @ ends_of(pp).T)

    def largest_at_ends(self, values: Rows, pp: int) -> Array:
        """(E, P): likewise, the larger one where a rank has both."""
        return np.asarray((values.ends[:, None] * ends_of(pp)).max(axis=-1))

    @cached_property
    def _kept_and_spent(self) -> tuple[Array, Array, Array]:
        """(E, K), (E, K, A), (E, K, A): kept by the policy that costs least; saved and spent by the others against it."""
        kept = self.rows.activation.layers[..., self.allowed]
        seconds = self.rows.backward.layers[..., self.allowed]
        cheap = np.take_along_axis(kept, seconds.argmin(axis=-1)[..., None], axis=-1)
        return cheap[..., 0], cheap - kept, seconds - seconds.min(axis=-1, keepdims=True)

    @property
    def cheap_kept(self) -> Array:
        """(E,): bytes a microbatch that a layer keeps under the policy that costs least."""
        return self.least(self._kept_and_spent[0])

    @property
    def least_kept(self) -> Array:
        """(E,): bytes a microbatch that a layer keeps at least."""
        return self.least(self.rows.activation.layers[..., self.allowed].min(axis=-1))

    @property
    def most_saved(self) -> Array:
        """(E,): bytes a microbatch that recomputing one layer saves at most."""
        return np.asarray(np.maximum(0.0, self._kept_and_spent[1].max(axis=(1, 2))))

    @cached_property
    def price(self) -> Array:
        """(E,): the least that is spent for a byte of one microbatch that is saved; 0 where nothing saves."""
        _, saved, spent = self._kept_and_spent
        with np.errstate(divide="ignore", invalid="ignore"):
            price = np.where(saved > 0, spent / saved, np.inf).min(axis=(1, 2))
        return np.where(np.isfinite(price), price, 0.0)

    @property
    def layer_static(self) -> Array:
        """(E,): bytes of a layer that stay over the step."""
        return self.least(self.rows.static.layers)

    def room(self, pp: int, *, saving: bool) -> Array:
        """(E, P): device bytes for layers, over 1 + allocator slack: less the ends, and the largest rows' working bytes.

        `saving`: where some layer is under a policy that keeps less than the cheapest one, and so works in more.
        """
        rows, working = self.rows, self.cheapest(self.rows.working)
        held = HeldBytes(
            static=self.at_ends(rows.static, pp),
            step=np.zeros(1),
            gather_window=self._least_of_largest(rows.gather_window, pp),
            reduce_buffer=self._least_of_largest(rows.reduce_buffer, pp),
            slack=rows.slack[:, None],
        )
        of_layer = (self._saving_working if saving else working.layers.min(axis=1))[:, None]
        used = self.at_ends(rows.activation, pp) + np.maximum(of_layer, self.largest_at_ends(working, pp))
        return np.asarray(held.activation_room(self.room_bytes[:, None]) - used)

    def _least_of_largest(self, values: Rows, pp: int) -> Array:
        """(E, P): what the largest row of a rank has at least."""
        return np.asarray(np.maximum(values.layers.min(axis=1)[:, None], self.largest_at_ends(values, pp)))

    @property
    def _saving_working(self) -> Array:
        """(E,): what a layer works in at least under a policy that keeps less than the cheapest; infinite if none does."""
        working = self.rows.working.layers[..., self.allowed]
        return np.asarray(np.where(self._kept_and_spent[1] > 0, working, np.inf).min(axis=(1, 2)))

    def host_layers(self, pp: int, room_bytes: float) -> Array:
        """(E, P): layers whose optimizer fits the rank's share of the host."""
        room = room_bytes - self.at_ends(self.rows.host, pp)
        each = self.least(self.rows.host.layers)[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(each > 0, room / each, np.where(room >= 0, np.inf, -1.0))
