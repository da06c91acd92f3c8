"""The least that any layer takes, by row costs of many entries at once: what lower bounds are made of."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.planner.space import LayerRanges, RowCosts


@dataclass(frozen=True)
class LayerFloor:
    """Minima over layer classes and allowed policies; `rows` are of entries (E,).

    `units` (E, K): what a layer of each class counts for where a bound says "a layer"; None: each for one. Any units give a
    valid bound: ranks must hold all units of the model, and a unit takes at least the least of any class. Units in
    proportion to a cost make that cost exact and the others' least looser.
    """

    rows: RowCosts
    ranges: LayerRanges
    allowed: list[int]
    units: Array | None = None

    @property
    def classes(self) -> int:
        return int(self.ranges.counts.shape[1])

    @property
    def whole(self) -> IntArray:
        """(K,): layers of each class in the model."""
        found: IntArray = self.ranges.counts[self.ranges.kind_of[0, -1]]
        return found

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
    def all_row_seconds(self) -> Array:
        """(E, R): forward and cheapest backward of one microbatch."""
        return np.asarray(self.rows.forward + self.rows.backward[..., self.allowed].min(axis=-1))

    @property
    def row_seconds(self) -> Array:
        """(E, K): likewise, layers alone."""
        return self.all_row_seconds[:, : self.classes]

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
        each, less = self.mean_line(self.row_seconds)
        cheapest = self.row_seconds.min(axis=1).reshape(shape) * numbers
        return np.asarray(np.maximum(cheapest, each.reshape(shape) * numbers - ranges * less.reshape(shape)))

    def whole_sum(self, values: Array) -> Array:
        """(E,): `values` (E, R) summed over the whole model."""
        return np.asarray(values[:, : self.classes] @ self.whole + values[:, self.classes :].sum(axis=1))

    @cached_property
    def tails(self) -> Array:
        """(E, R): the shortest tail of reductions that any policy leaves."""
        return np.asarray(self.rows.last_backward[..., self.allowed].min(axis=-1))

    def first_rank_tail(self, pp: int) -> Array:
        """(E,): the tail of the embedding and at least one layer; of all rows where there is one rank."""
        if pp == 1:
            return self.whole_sum(self.tails)
        return np.asarray(self.tails[:, self.classes] + self.tails[:, : self.classes].min(axis=1))

    @property
    def row_backward(self) -> Array:
        """(E, K): the cheapest backward."""
        return np.asarray(self.rows.backward[:, : self.classes][..., self.allowed].min(axis=-1))

    @cached_property
    def end_row_seconds(self) -> Array:
        """(E, 2): embedding and head."""
        return self.all_row_seconds[:, self.classes :]

    @property
    def total_seconds(self) -> Array:
        """(E,): one microbatch through the whole model."""
        return self.whole_sum(self.all_row_seconds)

    def at_ends(self, values: Array, pp: int) -> Array:
        """(E, P) from (E, 2): the embedding's on the first rank, the head's on the last."""
        at = np.zeros((len(values), pp))
        at[:, 0] += values[:, 0]
        at[:, -1] += values[:, 1]
        return at

    @cached_property
    def _kept_and_spent(self) -> tuple[Array, Array, Array]:
        """(E, K), (E, K, A), (E, K, A): kept by the policy that costs least; saved and spent by the others against it."""
        kept = self.rows.activation[:, : self.classes][..., self.allowed]
        seconds = self.rows.backward[:, : self.classes][..., self.allowed]
        cheap = np.take_along_axis(kept, seconds.argmin(axis=-1)[..., None], axis=-1)
        return cheap[..., 0], cheap - kept, seconds - seconds.min(axis=-1, keepdims=True)

    @property
    def cheap_kept(self) -> Array:
        """(E,): bytes a microbatch that a layer keeps under the policy that costs least."""
        return self.least(self._kept_and_spent[0])

    @property
    def least_kept(self) -> Array:
        """(E,): bytes a microbatch that a layer keeps at least."""
        return self.least(self.rows.activation[:, : self.classes][..., self.allowed].min(axis=-1))

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
        return self.least(self.rows.static[:, : self.classes])

    def room(self, pp: int, *, saving: bool) -> Array:
        """(E, P): device bytes for layers, over 1 + allocator slack: less the ends, and the largest rows' working bytes.

        `saving`: where some layer is under a policy that keeps less than the cheapest one, and so works in more.
        """
        rows, classes = self.rows, self.classes
        left = (rows.room[:, None] - self.at_ends(rows.static[:, classes:], pp)) / (1 + rows.slack[:, None])
        left = left - self.at_ends(rows.activation[:, classes:, 0], pp)
        working = rows.working[..., self.allowed].min(axis=-1)
        of_layers = (
            self._saving_working if saving else working[:, :classes].min(axis=1),
            *(values[:, :classes].min(axis=1) for values in (rows.gather_window, rows.reduce_buffer)),
        )
        for of_layer, values, times in zip(
            of_layers, (working, rows.gather_window, rows.reduce_buffer), (1, 2, 1), strict=True
        ):
            ends = values[:, classes:].max(axis=1)[:, None] if pp == 1 else self.at_ends(values[:, classes:], pp)
            left = left - times * np.maximum(of_layer[:, None], ends)
        return np.asarray(left)

    @property
    def _saving_working(self) -> Array:
        """(E,): what a layer works in at least under a policy that keeps less than the cheapest; infinite if none does."""
        working = self.rows.working[:, : self.classes][..., self.allowed]
        return np.asarray(np.where(self._kept_and_spent[1] > 0, working, np.inf).min(axis=(1, 2)))

    def host_layers(self, pp: int, room_bytes: float) -> Array:
        """(E, P): layers whose optimizer fits the rank's share of the host."""
        room = room_bytes - self.at_ends(self.rows.host[:, self.classes :], pp)
        each = self.least(self.rows.host[:, : self.classes])[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(each > 0, room / each, np.where(room >= 0, np.inf, -1.0))
