"""The cheapest recompute mix of a stage: how many layers of each class use which policy, so that the stage fits.

With layers as counts this is a small knapsack. A layer of class k under policy p keeps a_kp bytes for each microbatch
in flight, needs w_kp working bytes and costs c_kp seconds. Only the largest w_kp in use takes memory, so each value W
that it may have is tried. Policies with w_kp > W are excluded. The rest is: minimise sum n_kp c_kp subject to sum n_kp
a_kp <= room. It is solved exactly. One class takes a closed form for two policies and tries every count of the others.
Several classes join their Pareto fronts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.planner.space import Fixed
from shardwright.specs import PLAIN_STRATEGIES, Strategy


class Postponed(NamedTuple):
    """Microbatches of a schedule that splits the backward, on each pipeline position (Q), at each moment (T).

    `alive` (Q, T): those that wait for their input gradient. `waiting` (Q, T): those that wait for their weight gradient alone.
    Each of these holds `each_bytes` (Q, V) under any mix.
    """

    alive: Array
    waiting: Array
    each_bytes: Array

    def moments(self) -> Iterator[tuple[Array, Array]]:
        """Yield `alive` and `waiting` of each moment, (Q, 1) each."""
        return zip(self.alive.T[..., None], self.waiting.T[..., None], strict=True)


@dataclass(frozen=True)
class Room:
    """Memory limit of mixes, on each pipeline position (Q) and for each kind of layer range (V).

    `moving` (Q, V): bytes for kept activations and working memory. `alive` (Q,): microbatches in flight. `end_kept`
    (Q,) bytes a microbatch and `end_working` (Q,) bytes belong to the embedding and the head. `postponed` tells apart the
    microbatches in flight where backwards are split. `host` (Q, V): bytes for activations on the host.
    """

    moving: Array
    alive: Array
    end_kept: Array
    end_working: Array
    postponed: Postponed | None = None
    host: Array | float = np.inf

    @property
    def host_activations(self) -> Array:
        """(Q, V): bytes on the host that the layers may keep there for one microbatch."""
        return np.asarray(np.broadcast_to(self.host, self.moving.shape) / self.alive[:, None])

    @property
    def first(self) -> "Room":
        """The limit of the first position alone, where no backward is split."""
        host = np.broadcast_to(self.host, self.moving.shape)[:1]
        return Room(self.moving[:1], self.alive[:1], self.end_kept[:1], self.end_working[:1], host=host)

    def activations(self, working: float) -> Array:
        """(Q, V): bytes that the layers may keep for one microbatch, where the largest layer needs `working` bytes."""
        used = np.maximum(working, self.end_working)
        left = self.moving - used[:, None]
        kept = left / self.alive[:, None] if self.postponed is None else _at_every_moment(left, self.postponed)
        return np.asarray(kept - self.end_kept[:, None])

    def kept_at_once(self, kept: Array) -> Array:
        """(Q, V): the most bytes that are kept at once, where a microbatch in flight keeps `kept` (Q, V)."""
        if self.postponed is None:
            return np.asarray(self.alive[:, None] * kept)
        found = np.zeros(kept.shape)
        for alive, waiting in self.postponed.moments():
            np.maximum(found, alive * kept + waiting * self.postponed.each_bytes, out=found)
        return found


def _at_every_moment(left: Array, postponed: Postponed) -> Array:
    """(Q, V): bytes for each microbatch that waits for its input gradient; none is alive where nothing limits them."""
    found = np.full(left.shape, np.inf)
    for alive, waiting in postponed.moments():
        of_moment = left - np.where(waiting > 0, waiting * postponed.each_bytes, 0.0)
        unlimited = np.where(of_moment < 0, -np.inf, np.inf)
        found = np.minimum(found, np.where(alive > 0, of_moment / np.maximum(alive, 1), unlimited))
    return found


@dataclass(frozen=True)
class Mixes:
    """The cheapest mixes: `seconds` (Q, V), infinite where none fits, and `counts` (Q, V, classes, policies)."""

    seconds: Array
    counts: IntArray


def allowed_strategies(fixed: Fixed, strategies: Sequence[Strategy] = PLAIN_STRATEGIES) -> list[int]:
    """Return the indices of the strategies that may be used."""
    return [
        index
        for index, one in enumerate(strategies)
        if fixed.allows("recompute", one.recompute) and fixed.allows("offload_activations", one.activation_offload)
    ]


def useful_policies(measures: Array, allowed: list[int]) -> Array:
    """(K, P): the allowed policies that no other allowed policy beats in all `measures` (..., K, P)."""
    chosen = np.sort(np.array(allowed, dtype=np.int64))
    among = measures[..., chosen]
    ahead = (among[..., :, None] <= among[..., None, :]).all(axis=0)  # (K, other, policy)
    equal = (among[..., :, None] == among[..., None, :]).all(axis=0)
    first = np.arange(len(chosen))[:, None] < np.arange(len(chosen))
    useful = np.zeros(measures.shape[1:], dtype=bool)
    useful[:, chosen] = ~(ahead & (~equal | first)).any(axis=1)
    return useful


@dataclass(frozen=True)
class MixSolver:
    """Layer classes K by policies P: `seconds`, `kept`, `working` (K, P). Only `allowed` policies are used."""

    seconds: Array
    kept: Array
    working: Array
    allowed: list[int]
    _fronts: dict[tuple[bytes, bytes], "_Front"] = field(default_factory=dict, repr=False, compare=False)

    def solve(self, layers: IntArray, room: Room) -> Mixes:
        """Return the cheapest mixes for `layers` (V, K), layers of each class."""
        best: Mixes | None = None
        useful = self.useful
        for limit in np.unique(self.working[useful]):
            found = self._within(layers, room.activations(float(limit)), useful & (self.working <= limit))
            best = found if best is None else _cheaper(best, found)
        assert best is not None
        return best

    @cached_property
    def useful(self) -> Array:
        """(K, P): the allowed policies that no other allowed policy beats in seconds, kept and working bytes."""
        return useful_policies(np.stack([self.seconds, self.kept, self.working]), self.allowed)

    def _within(self, layers: IntArray, room: Array, usable: Array) -> Mixes:
        if layers.shape[1] == 1:
            return self._one_class(layers[:, 0], room, [int(p) for p in np.flatnonzero(usable[0])])
        mixes = self._cheapest_policies(layers, room, usable)
        some = np.where(layers > 0, np.where(usable, self.kept, np.inf).min(axis=1), 0.0)
        open_places = np.isinf(mixes.seconds) & ((layers * some).sum(axis=1) <= room)
        for kind in np.flatnonzero(open_places.any(axis=0)):
            front = self._front(layers[kind], usable)
            place = np.searchsorted(front.kept, room[:, kind], side="right") - 1
            fits = open_places[:, kind] & (place >= 0)
            mixes.seconds[fits, kind] = front.seconds[place[fits]]
            mixes.counts[fits, kind] = front.counts[place[fits]]
        return mixes

    def _cheapest_policies(self, layers: IntArray, room: Array, usable: Array) -> Mixes:
        """Put every layer under the cheapest usable policy of its class, where that
        fits. Most places need no further search."""
        seconds = np.where(usable, self.seconds, np.inf)
        chosen = seconds.argmin(axis=1)
        rows = np.arange(len(chosen))
        cost = np.where(layers > 0, layers * np.where(layers > 0, seconds[rows, chosen], 0.0), 0.0).sum(axis=1)
        fits = (layers * self.kept[rows, chosen]).sum(axis=1) <= room
        counts = np.zeros((*room.shape, *usable.shape), dtype=np.int64)
        counts[:, :, rows, chosen] = layers
        return Mixes(np.where(fits, cost, np.inf), counts)

    def _one_class(self, layers: IntArray, room: Array, policies: list[int]) -> Mixes:
        """Count the layers under each policy: two policies in closed form, each further one by trying every count."""
        kept, seconds = self.kept[0], self.seconds[0]
        *rest, last = sorted(policies, key=lambda policy: (seconds[policy], kept[policy]))
        if len(policies) <= 2:
            return self._two_policies(layers, room, rest[0] if rest else last, last)
        best: Mixes | None = None
        for count in range(int(layers.max()) + 1):
            found = self._one_class(layers - count, room - count * kept[last], rest)
            found.counts[..., 0, last] += count
            found = Mixes(found.seconds + count * seconds[last], found.counts)
            best = found if best is None else _cheaper(best, found)
        assert best is not None
        return best

    def _two_policies(self, layers: IntArray, room: Array, first: int, second: int) -> Mixes:
        """Put as many layers as fit under `first`, the cheaper policy, and the rest
        under `second`; infinite where none fits."""
        kept, seconds = self.kept[0], self.seconds[0]
        counts = np.zeros((*room.shape, *self.seconds.shape), dtype=np.int64)
        over = layers * kept[first] - room
        saved = kept[first] - kept[second]
        moved = np.ceil(np.maximum(0.0, over) / saved) if saved > 0 else np.where(over > 0, np.inf, 0.0)
        fits = (moved <= layers) & (layers >= 0)
        moved = np.where(fits, moved, 0.0).astype(np.int64)
        counts[..., 0, second] += moved
        counts[..., 0, first] += layers - moved
        return Mixes(np.where(fits, (layers - moved) * seconds[first] + moved * seconds[second], np.inf), counts)

    def _front(self, held: IntArray, usable: Array) -> "_Front":
        """Return the Pareto-best mixes of `held` (K,) layers."""
        key = (held.tobytes(), usable.tobytes())
        if key not in self._fronts:
            front = _Front(np.zeros(1), np.zeros(1), np.zeros((1, 0, usable.shape[1]), dtype=np.int64))
            for kind, count in enumerate(held):
                front = front.joined(self._class_front(kind, int(count), usable))
            self._fronts[key] = front
        return self._fronts[key]

    def _class_front(self, kind: int, count: int, usable: Array) -> "_Front":
        policies = np.flatnonzero(usable[kind])
        splits = _splits(count, len(policies))
        counts = np.zeros((len(splits), 1, usable.shape[1]), dtype=np.int64)
        counts[:, 0, policies] = splits
        return _Front(counts[:, 0] @ self.kept[kind], counts[:, 0] @ self.seconds[kind], counts).pruned()


@dataclass(frozen=True)
class _Front:
    """Mixes that no other mix beats in both bytes and seconds: `kept` ascending, `seconds` descending, `counts`."""

    kept: Array
    seconds: Array
    counts: IntArray

    def joined(self, other: "_Front") -> "_Front":
        """Return the front of all sums of one mix of each."""
        left, right = (part.reshape(-1) for part in np.indices((len(self.kept), len(other.kept))))
        counts = np.concatenate([self.counts[left], other.counts[right]], axis=1)
        return _Front(self.kept[left] + other.kept[right], self.seconds[left] + other.seconds[right], counts).pruned()

    def pruned(self) -> "_Front":
        if not len(self.kept):
            return self
        order = np.lexsort((self.seconds, self.kept))
        seconds = self.seconds[order]
        best_before = np.concatenate([[np.inf], np.minimum.accumulate(seconds)[:-1]])
        order = order[seconds < best_before]
        return _Front(self.kept[order], self.seconds[order], self.counts[order])


def _splits(count: int, parts: int) -> IntArray:
    """(ways, parts): every way to split `count` layers over `parts` policies; none where there are no policies."""
    if parts == 0:
        return np.zeros((int(count == 0), 0), dtype=np.int64)
    grid = np.indices((count + 1,) * (parts - 1)).reshape(parts - 1, (count + 1) ** (parts - 1))
    grid = grid[:, grid.sum(axis=0) <= count]
    return np.concatenate([grid, count - grid.sum(axis=0, keepdims=True)]).T


def _cheaper(one: Mixes, other: Mixes) -> Mixes:
    better = other.seconds < one.seconds
    return Mixes(
        np.where(better, other.seconds, one.seconds), np.where(better[..., None, None], other.counts, one.counts)
    )
