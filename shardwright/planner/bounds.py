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
- interleaved: rank r starts when r stages have passed the first microbatch down, and ends when they have passed the last
  one up: T >= M x_r + r (x_min + 2c), x_min the smallest stage; so does its mean over r.

Gathers before the first forward, the reduction's tail and the optimizer are added where the path meets them.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from ..costmodel import constants
from ..costmodel.candidates import IntArray
from ..costmodel.in_flight import alive_counts
from ..costmodel.op_times import Array
from .interleaved import chunk_sizes
from .layer_ranges import LayerRanges
from .space import SCHEDULES
from .space_costs import RowCosts, SpaceCosts

_BISECTIONS = 30
# From 3 microbatches a rank on, a 1F1B rank reaches its steady state, plain or interleaved, and holds no more with more.
_STEADY_PER_RANK = 3
_GPIPE, _INTERLEAVED = SCHEDULES.index("gpipe"), SCHEDULES.index("interleaved-1f1b")


def lower_bounds(costs: SpaceCosts, ranges: LayerRanges, allowed: list[int]) -> Array:
    """(N,) seconds, one for each entry of the space."""
    bounds = np.full(len(costs.space), np.inf)
    pp = costs.space.column("pp")
    for degree in np.unique(pp):
        entries = np.flatnonzero(pp == degree)
        bounds[entries] = _OneDegree(costs, ranges, allowed, entries, int(degree)).bounds()
    return bounds


class _Alive(NamedTuple):
    """Microbatches in flight on the ranks (P,) of an entry, as a rising function of the rank's layers.

    A rank of n layers keeps at least `base + each * n` times what one layer keeps of one microbatch; recomputing one
    layer saves at most `most` times what that saves of one.
    """

    base: Array
    each: Array
    most: Array


@dataclass(frozen=True)
class _OneDegree:
    """The entries (E,) of one pipeline degree P. Arrays are (E,), (E, P) or, by layer class, (E, K)."""

    costs: SpaceCosts
    ranges: LayerRanges
    allowed: list[int]
    entries: IntArray
    pp: int

    @cached_property
    def _rows(self) -> RowCosts:
        return self.costs.rows[self.costs.space.base_index[self.entries]]

    def bounds(self) -> Array:
        space, rows = self.costs.space, self._rows
        schedule, chunks = space.schedule[self.entries], space.stages_per_rank[self.entries]
        microbatches = space.column("microbatches")[self.entries].astype(float)
        total, fitting = self._total_seconds(), self._largest_rank_seconds()
        largest = np.where(np.isfinite(fitting), fitting, 0.0)
        hops = 2 * rows.send
        once = total + hops * (self.pp * chunks - 1)
        extra = rows.first_forward[:, : self._classes] @ self._whole + rows.first_forward[:, self._classes :].sum(axis=1)
        ramp = 2 * total + (microbatches - self.pp - 1) * np.maximum(largest, total / self.pp) + hops * (self.pp - 1)
        flat = np.maximum(once, np.where(microbatches > self.pp, ramp, 0.0)) + extra
        flat = np.where(schedule == _GPIPE, once + (microbatches - 1) * largest, flat)
        wait = 0.5 * (self.pp - 1) * (self._smallest_stage_seconds(chunks) + hops)
        looped = np.maximum(once, microbatches * total / self.pp + wait)
        path = np.where(schedule == _INTERLEAVED, looped, flat)
        seconds = np.maximum(path, microbatches * largest) + self._after_seconds()
        return np.where(np.isfinite(fitting), seconds, np.inf)

    @property
    def _classes(self) -> int:
        return int(self.ranges.counts.shape[1])

    @property
    def _whole(self) -> IntArray:
        """(K,): layers of each class in the model."""
        found: IntArray = self.ranges.counts[self.ranges.kind_of[0, -1]]
        return found

    def _total_seconds(self) -> Array:
        """(E,): one microbatch on all ranks, each row under its cheapest policy."""
        each = self._row_seconds()
        return np.asarray(each[:, : self._classes] @ self._whole + each[:, self._classes :].sum(axis=1))

    def _row_seconds(self) -> Array:
        """(E, R): forward and cheapest backward."""
        return np.asarray(self._rows.forward + self._rows.backward[..., self.allowed].min(axis=-1))

    def _end_seconds(self) -> Array:
        """(E, P): what the embedding and the head take on the first and last rank."""
        return self._at_ends(self._row_seconds()[:, self._classes :])

    def _at_ends(self, values: Array) -> Array:
        """(E, P) from (E, 2): the embedding's on the first rank, the head's on the last."""
        at = np.zeros((len(values), self.pp))
        at[:, 0] += values[:, 0]
        at[:, -1] += values[:, 1]
        return at

    def _smallest_stage_seconds(self, chunks: IntArray) -> Array:
        sizes = {int(count): chunk_sizes(self.ranges.layer_count, self.pp * int(count))[0] for count in np.unique(chunks)}
        fewest = np.array([sizes[count] for count in chunks.tolist()])
        return np.asarray(fewest * self._row_seconds()[:, : self._classes].min(axis=1))

    def _after_seconds(self) -> Array:
        """(E,): the first rank's tail with the embedding and one layer, or the mean rank's; the mean rank's optimizer."""
        tail = self._rows.last_backward[..., self.allowed].min(axis=-1)
        first = tail[:, self._classes] + tail[:, : self._classes].min(axis=1)
        if self.pp == 1:
            first = tail[:, : self._classes] @ self._whole + tail[:, self._classes :].sum(axis=1)
        optimizer = self._rows.optimizer
        each = optimizer[:, : self._classes] @ self._whole + optimizer[:, self._classes :].sum(axis=1)
        return np.asarray(first + each / self.pp)

    def _largest_rank_seconds(self) -> Array:
        """(E,): m*, infinite where the ranks can't hold all layers."""
        layers, ends = self.ranges.layer_count, self._end_seconds()
        each = self._row_seconds()[:, : self._classes].min(axis=1)[:, None]
        free, price, most = self._memory()
        enough = np.floor(most).sum(axis=1) >= layers
        high = (ends + each * layers + np.maximum(0.0, price * (layers - free))).max(axis=1)
        low = np.zeros_like(high)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            spare = middle[:, None] - ends
            plain = spare / each
            paying = (spare + price * free) / (each + price)
            held = np.where(plain <= free, plain, np.maximum(np.minimum(plain, free), paying))
            held = np.clip(np.floor(np.minimum(held, most) * (1 + 1e-9)), 0, layers)
            fits = held.sum(axis=1) >= layers
            high, low = np.where(fits, middle, high), np.where(fits, low, middle)
        return np.where(enough, low, np.inf)

    def _memory(self) -> tuple[Array, Array, Array]:
        """(E, P) each: layers that fit with the cheapest policy, seconds for each layer beyond, layers that fit at all."""
        rows, classes, alive = self._rows, self._classes, self._alive()
        kept = rows.activation[:, :classes][..., self.allowed]
        seconds = rows.backward[:, :classes][..., self.allowed]
        cheap = np.take_along_axis(kept, seconds.argmin(axis=-1)[..., None], axis=-1)
        cheapest, least = cheap.min(axis=(1, 2))[:, None], kept.min(axis=(1, 2))[:, None]
        slack = 1 + constants.ALLOCATOR_SLACK.value
        static = rows.static[:, :classes].min(axis=1)[:, None] / slack
        room = (rows.room[:, None] - self._at_ends(rows.static[:, classes:])) / slack - self._largest_bytes()
        room = room - self._at_ends(rows.activation[:, classes:, 0])
        plain_each = static + alive.each * cheapest
        free = np.maximum(0.0, room - alive.base * cheapest) / plain_each
        most = np.minimum((room - alive.base * least) / (static + alive.each * least), self._host_layers())
        return free, plain_each * _least_price(seconds, cheap - kept)[:, None] / alive.most, np.maximum(0.0, most)

    def _host_layers(self) -> Array:
        """(E, P): layers whose optimizer fits the rank's share of the host."""
        host = self._rows.host
        room = self.costs.host_room_bytes - self._at_ends(host[:, self._classes :])
        each = host[:, : self._classes].min(axis=1)[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(each > 0, room / each, np.where(room >= 0, np.inf, 0.0))

    def _largest_bytes(self) -> Array:
        """(E, P): working memory, gather window and reduction buffer, with the smallest layer."""
        rows, classes = self._rows, self._classes
        total = np.zeros((len(self.entries), self.pp))
        working = rows.working[..., self.allowed].min(axis=-1)
        for values, times in ((working, 1), (rows.gather_window, 2), (rows.reduce_buffer, 1)):
            at_ends = self._at_ends(values[:, classes:])
            if self.pp == 1:
                at_ends = values[:, classes:].max(axis=1)[:, None]
            total += times * np.maximum(values[:, :classes].min(axis=1)[:, None], at_ends)
        return total

    def _alive(self) -> _Alive:
        """For each entry, computed once for those that share a schedule and a number of microbatches."""
        space = self.costs.space
        microbatches = space.column("microbatches")[self.entries]
        schedule = space.schedule[self.entries]
        steady = np.where(schedule == _GPIPE, microbatches, np.minimum(microbatches, _STEADY_PER_RANK * self.pp))
        keys = np.stack([schedule, space.stages_per_rank[self.entries], steady], axis=1)
        distinct, place = np.unique(keys, axis=0, return_inverse=True)
        found = [_alive_of(self.pp, int(n), int(v), int(m), self.ranges.layer_count) for n, v, m in distinct]
        return _Alive(*(np.stack(part)[place.reshape(-1)] for part in zip(*found, strict=True)))


@lru_cache(maxsize=4096)
def _alive_of(pp: int, schedule: int, chunks: int, microbatches: int, layers: int) -> _Alive:
    """(P,) each. A stage of n layers has at least `fewest`; the others of the rank count as if least often alive."""
    fewest = chunk_sizes(layers, pp * chunks)[0] if chunks > 1 else 0
    ranks = alive_counts(SCHEDULES[schedule], pp, chunks, microbatches)
    fullest = [counts[counts.sum(axis=1).argmax()] for counts in ranks]
    return _Alive(
        base=np.array([fewest * (counts.sum() - chunks * counts.min()) for counts in fullest], dtype=float),
        each=np.array([counts.min() for counts in fullest], dtype=float),
        most=np.array([counts.max() for counts in ranks], dtype=float),
    )


def _least_price(seconds: Array, saved: Array) -> Array:
    """(E,): the least that any policy of any class spends for a byte of one microbatch that it saves; 0 where none saves."""
    spent = seconds - seconds.min(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        price = np.where(saved > 0, spent / saved, np.inf).min(axis=(1, 2))
    return np.where(np.isfinite(price), price, 0.0)
