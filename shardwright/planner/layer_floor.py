"""The least that any layer takes, by row costs of many entries at once: what lower bounds are made of."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from shardwright.costmodel import constants
from shardwright.costmodel.candidates import IntArray
from shardwright.costmodel.op_times import Array

from .space_costs import RowCosts


@dataclass(frozen=True)
class LayerFloor:
    """Minima over layer classes and allowed policies; `rows` of entries (E,), `whole` (K,) the model's layers by class."""

    rows: RowCosts
    whole: IntArray
    allowed: list[int]

    @property
    def classes(self) -> int:
        return len(self.whole)

    @cached_property
    def all_row_seconds(self) -> Array:
        """(E, R): forward and cheapest backward of one microbatch."""
        return np.asarray(self.rows.forward + self.rows.backward[..., self.allowed].min(axis=-1))

    @property
    def row_seconds(self) -> Array:
        """(E, K): likewise, layers alone."""
        return self.all_row_seconds[:, : self.classes]

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
        return np.asarray(self.row_seconds @ self.whole + self.end_row_seconds.sum(axis=1))

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
        return np.asarray(self._kept_and_spent[0].min(axis=1))

    @property
    def least_kept(self) -> Array:
        """(E,): bytes a microbatch that a layer keeps at least."""
        return np.asarray(self.rows.activation[:, : self.classes][..., self.allowed].min(axis=(1, 2)))

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
        return np.asarray(self.rows.static[:, : self.classes].min(axis=1))

    def room(self, pp: int, *, saving: bool) -> Array:
        """(E, P): device bytes for layers, over 1 + allocator slack: less the ends, and the largest rows' working bytes.

        `saving`: where some layer is under a policy that keeps less than the cheapest one, and so works in more.
        """
        rows, classes = self.rows, self.classes
        left = (rows.room[:, None] - self.at_ends(rows.static[:, classes:], pp)) / (1 + constants.ALLOCATOR_SLACK.value)
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
        each = self.rows.host[:, : self.classes].min(axis=1)[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(each > 0, room / each, np.where(room >= 0, np.inf, -1.0))
