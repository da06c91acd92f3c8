"""Lower bounds on entries whose schedule splits the backward, from the work and the waits of each rank.

Symbols: P ranks; M microbatches; c is one message. Stage s has forward f_s, input gradient b_s (with what it recomputes) and
weight gradient w_s. Rank r works x_r for one microbatch. Its first stage is a_r, its last stage z_r: the same stage, or the two
arms of a V. F is the forward of the whole model, H the number of messages on its way.

A rank computes one pass at a time, in a fixed order. It runs k_r forwards before its first gradient, and n_r weight gradients
after the last gradient of its first stage. So the pipeline takes at least

    U_r + M x_r                         U_r = sum_{s<a_r} (f_s + c): the first microbatch comes down to the rank
    V_r + M x_r - (its k_r forwards)    V_r = F + H c + sum_{s>z_r} (b_s + c): the first gradient comes back to it
    either - (its n_r weight gradients) + A    A = sum_{s<a_r} (b_s + c) + the first rank's n_0 weight gradients

The first stage holds a microbatch for a whole round trip of forwards and input gradients and for its weight gradient. Where it
holds at most h microbatches at once, M such times / h is one more bound. V-Half and V-Min hold few.

The gathers before first forwards lie on these paths too. The tail of reductions that follows is the rank's own, or with A the
first rank's. For stages that take equally long, with f = b = w, this is the schedule's closed form: 3 M f + (P - 1) f for ZB-H1
and ZB-2p, and the same with the seconds of one of its stages for ZB-V.

The least step T is found by bisection: the largest numbers of layers with which every rank keeps within T must hold the model.
These numbers also bound the stages above and below a rank from below. A rank with more layers than fit recomputes, as in
rank_bounds.py.
"""

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.costmodel.pipeline import ActionKind, make_schedule, split_counts
from shardwright.costmodel.tables import Rows, ends_of
from shardwright.planner.space import SCHEDULES, LayerRanges, SpaceCosts, chunk_sizes
from shardwright.specs import ScheduleName, by_rank, stage_ranks

from .bisection import least_that_holds
from .layer_floor import LayerFloor
from .rank_bounds import RankBounds, units_in

_TINY = 1e-30
_GRADIENTS = (ActionKind.INPUT_GRADIENT, ActionKind.BACKWARD)


class _Ramp(NamedTuple):
    """(P, chunks) each: a rank's forwards before its first gradient, its weight gradients after the last gradient of its first
    stage; microbatches that wait for their input gradient, and for their weight gradient alone, at the rank's fullest moment; the
    most microbatches that a stage holds at once.
    """

    before: IntArray
    after: IntArray
    alive: IntArray
    waiting: IntArray
    most: IntArray


@lru_cache(maxsize=4096)
def ramp(name: ScheduleName, pp: int, chunks: int, microbatches: int) -> _Ramp:
    """Count the passes of a schedule's ramps. From 2 `pp` microbatches on they are the same; `SplitBounds` asks for no more."""
    before, after = np.zeros((2, pp, chunks), dtype=np.int64)
    for rank, order in enumerate(make_schedule(name, pp, chunks, microbatches).orders):
        gradients = [
            place for place, work in enumerate(order) if any(action.kind in _GRADIENTS for action in work.passes)
        ]
        of_first = [
            place for place in gradients if any(a.kind in _GRADIENTS and a.stage == rank for a in order[place].passes)
        ]
        for action in (action for work in order[: gradients[0]] for action in work.passes):
            before[rank, action.stage // pp] += 1
        for action in (action for work in order[of_first[-1] + 1 :] for action in work.passes):
            assert action.kind is ActionKind.WEIGHT_GRADIENT, "a rank's first stage has the last gradient"
            after[rank, action.stage // pp] += 1
    counts = split_counts(name, pp, chunks, microbatches)
    fullest = np.stack([each[each.sum(axis=(1, 2)).argmax()] for each in counts])
    most = np.stack([each.sum(axis=1).max(axis=0) for each in counts])
    return _Ramp(before, after, fullest[:, 0], fullest[:, 1], most)


class _Memory(NamedTuple):
    """(E, P) each, as in `RankBounds`: layers that fit with the fastest policy alone; layers from which on saving bytes costs
    time; seconds for each layer beyond that; layers that fit at all."""

    free: Array
    saving: Array
    price: Array
    most: Array


class _Path(NamedTuple):
    """A path through each rank's work: seconds `each` (E, P) layer and seconds `once` (E, P) without the stages around it.

    `around`: which of the forwards above, the gradients above and the gradients below the rank lie on it.
    """

    each: Array
    once: Array
    around: tuple[int, ...]


_DOWN, _UP, _BACK = range(3)


class _Outside(NamedTuple):
    """Seconds of each layer (E, 1) on stages outside a rank, and seconds (E, P) of messages, embedding and head there."""

    each: Array
    once: Array


@dataclass(frozen=True)
class SplitBounds:
    """The entries (E,) that share `pp` and `chunks`, and so the ranks of all stages. Arrays are (E,), (E, P) or (E, S), S stages."""

    costs: SpaceCosts
    ranges: LayerRanges
    floor: LayerFloor
    entries: IntArray
    pp: int
    chunks: int

    def bounds(self, limit: Array) -> Array:
        """(E,) seconds without optimizers, infinite where nothing fits. What is not below `limit` (E,) may be looser."""
        floor = self.floor
        total, common = floor.total_seconds, int(floor.whole.argmax())
        busiest = -(-floor.whole[common] // self.pp) * floor.row_seconds.layers[:, common]
        once = self._round_trip + floor.whole_sum(floor.rows.first_forward) + floor.first_rank_tail(self.pp)
        least: Array = np.maximum(once, self._microbatches * np.maximum(busiest, total / self.pp))
        # the counts of a schedule of many ranks take longer than all else: only what is still below the limit needs them
        for sharpened in (SplitBounds._counted, SplitBounds._sharper):
            near = np.flatnonzero(least < limit)
            if not len(near):
                break
            of_near = replace(self, floor=floor[near], entries=self.entries[near])
            least[near] = sharpened(of_near, least[near], limit[near])
        return least

    @property
    def _round_trip(self) -> Array:
        """(E,): seconds of a microbatch's way through all stages and back, without its weight gradients."""
        floor = self.floor
        trip: Array = floor.whole_sum(floor.rows.forward + self._gradient) + 2 * self._hops * floor.rows.send
        return trip

    def _counted(self, least: Array, limit: Array) -> Array:
        """(E,): the bounds that follow from how many microbatches a schedule holds, or `least` (E,) where that is more."""
        floor, weights = self.floor, self.floor.rows.weight_gradient
        last = self._fewest[0, 0] * weights.layers.min(axis=1) + self._ends_of_stages(weights)[:, 0, 0]
        held = self._microbatches / self._ramps.most[:, 0, 0] * (self._round_trip + last)
        counted: Array = np.maximum(held + floor.first_rank_tail(self.pp), self._mixed_classes_seconds(limit))
        return np.asarray(np.maximum(least, counted))

    def _sharper(self, least: Array, limit: Array) -> Array:
        if self.floor.classes > 1:
            common = int(self.floor.whole.argmax())
            least = np.maximum(least, self._of_class(common)._bisected(least, limit))
        return np.maximum(least, self._bisected(least, limit))

    def _of_class(self, index: int) -> "SplitBounds":
        """Return the bounds of the model with the layers of one class alone, which takes no longer."""
        return replace(self, floor=self.floor.of_class(index))

    @property
    def _layers(self) -> int:
        """The layers that count."""
        return int(self.floor.whole.sum())

    def _mixed_classes_seconds(self, limit: Array) -> Array:
        """(E,): lower bound on the busiest rank's own work, from the layers of several classes; 0 for one class."""
        floor, ramps = self.floor, self._ramps
        if floor.classes == 1:
            return np.zeros(len(self.entries))
        most = np.maximum(1.0, ramps.alive.max(axis=2))
        ranks = RankBounds(floor, ramps.alive.min(axis=2).astype(float), most, self.costs.host_room_bytes)
        own = floor.row_seconds.times(self._microbatches) + floor.rows.first_forward + floor.tails
        return ranks.seconds(own, self._microbatches, limit)

    def _bisected(self, least: Array, limit: Array) -> Array:
        """(E,): the least time in which every rank is within all its paths and all ranks together hold all layers, or `least`
        (E,) where that is more."""
        layers, memory = self._layers, self._memory
        enough = np.floor(np.minimum(memory.most, self._most_of_rank) * (1 + 1e-9)).sum(axis=1) >= layers
        most = np.minimum(self._most_of_rank, layers)
        recomputed = self._microbatches[:, None] * np.maximum(0.0, memory.price * (most - memory.saving))
        nothing = np.zeros((len(self.entries), self.chunks * self.pp))
        around = self._around(nothing)
        high = np.max(
            [path.once + sum(around[part] for part in path.around) + path.each * most for path in self._paths]
            + recomputed,
            axis=(0, 2),
        )
        low = np.minimum(np.where(np.isfinite(least), least, 0.0), high)
        high = np.maximum(low, np.minimum(high, limit))

        low = np.where(self._hold_all(high), low, high)
        left = np.flatnonzero(enough & (low < high))
        if len(left):
            of_left = replace(self, floor=self.floor[left], entries=self.entries[left])
            low[left] = least_that_holds(of_left._hold_all, low[left], high[left])
        return np.where(enough, low, np.inf)

    def _hold_all(self, seconds: Array) -> Array:
        """(E,): whether the ranks hold all layers in `seconds` (E,)."""
        return np.asarray(self._held(seconds).sum(axis=1) >= self._layers)

    def _held(self, seconds: Array) -> Array:
        """(E, P): the most layers of each rank in `seconds` (E,); below zero where a rank can't hold its fewest."""
        own = self._paths[0]
        caps = self._of_path(own, seconds[:, None] - own.once)
        most = self._most_of_stages(caps)
        around = self._around(most)
        spares = [seconds[:, None] - path.once - sum(around[part] for part in path.around) for path in self._paths]
        held = np.minimum.reduce([self._of_path(path, spare) for path, spare in zip(self._paths, spares, strict=True)])
        return np.where(held >= self._fewest.sum(axis=1), held, -self._layers)

    def _of_path(self, path: _Path, spare: Array) -> Array:
        """(E, P): the most layers whose passes on a path take `spare` seconds."""
        memory = self._memory
        price = self._microbatches[:, None] * memory.price
        plain, paying = units_in(spare, path.each), units_in(spare + price * memory.saving, path.each + price)
        held = np.where(plain <= memory.free, plain, np.maximum(memory.free, paying))
        return np.floor(np.minimum(np.minimum(held, memory.most), self._most_of_rank) * (1 + 1e-9))

    def _most_of_stages(self, caps: Array) -> Array:
        """(E, S): the most layers of each stage, where its rank holds at most `caps` (E, P)."""
        ranks, sizes = self._ranks, self._sizes
        others = self._fewest.sum(axis=1)[ranks] - sizes[0]
        return np.asarray(np.maximum(sizes[0], np.minimum(sizes[1], caps[:, ranks] - others)))

    def _around(self, most: Array) -> tuple[Array, Array, Array]:
        """(E, P) each: seconds of `_DOWN`, `_UP` and `_BACK`, where stages hold at most `most` (E, S) layers.

        The stages above a rank hold at least what the others cannot.
        """
        first, last, layers = self._stages[:, 0], self._stages[:, -1], self._layers
        fewest = np.concatenate([[0], np.cumsum(self._sizes[0])])
        upto = np.concatenate([np.zeros((len(most), 1)), np.cumsum(most, axis=1)], axis=1)
        above = np.maximum(fewest[first], layers - (upto[:, -1:] - upto[:, first]))
        below = np.maximum(fewest[-1] - fewest[last + 1], layers - upto[:, last + 1])
        down, gradient, back = self._outside
        return down.each * above + down.once, gradient.each * above + gradient.once, gradient.each * below + back.once

    @cached_property
    def _outside(self) -> tuple["_Outside", "_Outside", "_Outside"]:
        """Of the forwards above a rank, the gradients above it, and the gradients below it."""
        first, last, send = self._stages[:, 0], self._stages[:, -1], self.floor.rows.send[:, None]
        down, gradient = self.floor.rows.forward + self.floor.rows.first_forward, self._gradient
        each, each_gradient = (values.layers.min(axis=1)[:, None] for values in (down, gradient))
        shares = np.concatenate([np.zeros((1, 2)), np.cumsum(self._shares, axis=0)])
        above, below = shares[first], shares[-1] - shares[last + 1]
        return (
            _Outside(each, first * send + down.ends @ above.T),
            _Outside(each_gradient, first * send + gradient.ends @ above.T),
            _Outside(each_gradient, self._hops_below * send + gradient.ends @ below.T),
        )

    @cached_property
    def _paths(self) -> list[_Path]:
        """The rank's own work comes first."""
        floor, ramps = self.floor, self._ramps
        tails, gathers = floor.tails, floor.rows.first_forward
        first_tail = floor.first_rank_tail(self.pp)[:, None] + self._last_of_first_rank[:, None]
        come = (self._whole_forward + self._hops * floor.rows.send)[:, None]
        none = np.zeros_like(ramps.before)
        own, back = (self._path(tails, once, before, none) for once, before in ((gathers, none), (None, ramps.before)))
        up, back_up = (
            self._path(None, once, before, ramps.after) for once, before in ((gathers, none), (None, ramps.before))
        )
        return [
            _Path(*own, (_DOWN,)),
            _Path(up[0], up[1] + first_tail, (_DOWN, _UP)),
            _Path(back[0], back[1] + come, (_BACK,)),
            _Path(back_up[0], back_up[1] + come + first_tail, (_BACK, _UP)),
        ]

    def _path(self, tails: Rows | None, gathers: Rows | None, before: Array, after: Array) -> tuple[Array, Array]:
        """(E, P) each: seconds of each layer, and of a rank's ends, of all passes but `before` forwards and `after` weight
        gradients (E, P, chunks).

        The chunks of a rank hold their fewest layers at least. More layers count for the chunk where they shorten it most.
        """
        rows, work = self.floor.rows, self.floor.row_seconds.times(self._microbatches)
        work = sum((part for part in (tails, gathers) if part is not None), work)
        forwards, weights = before.max(axis=2), after.max(axis=2)
        each = (
            work.layers[:, None]
            - forwards[..., None] * rows.forward.layers[:, None]
            - weights[..., None] * rows.weight_gradient.layers[:, None]
        )
        each = (each if self.floor.on_ranks is None else np.where(self.floor.on_ranks, each, np.inf)).min(axis=2)
        once = np.zeros(each.shape)
        for counts, most, values in ((before, forwards, rows.forward), (after, weights, rows.weight_gradient)):
            spared = ((most[..., None] - counts) * self._fewest).sum(axis=2)
            once += spared * values.layers.min(axis=1)[:, None]
        of_forward, of_weight = self._ends_of_stages(rows.forward), self._ends_of_stages(rows.weight_gradient)
        once += (self._ends_of_stages(work) - before * of_forward - after * of_weight).sum(axis=2)
        return np.maximum(each, _TINY), once

    @cached_property
    def _memory(self) -> _Memory:
        """The bytes of a rank of N layers lie above two lines in N, as each of its stages holds its fewest layers at least, and
        its most at most."""
        floor = self.floor
        room, saving_room = (floor.room(self.pp, saving=saving) for saving in (False, True))
        cheap, least = (self._bytes(kept) for kept in (floor.cheap_kept, floor.least_kept))
        free = np.minimum.reduce([np.maximum(0.0, room - once) / each for each, once in cheap])
        most = np.minimum.reduce([np.maximum(free, (saving_room - once) / each) for each, once in least])
        most = np.minimum(most, floor.host_layers(self.pp, self.costs.host_room_bytes))
        each, once = cheap[0]
        left = saving_room - once
        saving = np.where(np.isfinite(left), left, 0.0) / each
        price = each * floor.price / np.maximum(1.0, self._ramps.alive.max(axis=2))
        return _Memory(free, np.minimum(saving, free), price, np.maximum(0.0, most))

    def _bytes(self, kept: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """(E, P) each: bytes of each layer and once, of two lines below the bytes of a rank whose layers keep `kept` (E, 1) or (E, P) for
        each microbatch in flight."""
        floor, ramps = self.floor, self._ramps
        static = floor.layer_static / (1 + floor.rows.slack[:, None])
        postponed = floor.least(floor.rows.postponed.layers)
        of_stage = ramps.alive * kept[..., None] + ramps.waiting * postponed[..., None]
        least, greatest = of_stage.min(axis=2), of_stage.max(axis=2)
        fewest, most = (sizes[self._stages] for sizes in self._sizes)
        above = ((of_stage - least[..., None]) * fewest).sum(axis=2)
        below = ((of_stage - greatest[..., None]) * most).sum(axis=2)
        return (np.maximum(1.0, static + least), above), (np.maximum(1.0, static + greatest), below)

    @cached_property
    def _gradient(self) -> Rows:
        """(E,): the least input gradient of each row."""
        least = self.floor.cheapest(self.floor.rows.backward)
        return least + self.floor.rows.weight_gradient.times(-np.ones(len(self.entries)))

    @cached_property
    def _whole_forward(self) -> Array:
        """(E,): the first microbatch's forward through all stages, without messages."""
        return self.floor.whole_sum(self.floor.rows.forward + self.floor.rows.first_forward)

    @cached_property
    def _last_of_first_rank(self) -> Array:
        """(E,): the first rank's weight gradients after its last gradient."""
        weights, after = self.floor.rows.weight_gradient, self._ramps.after[:, 0]
        of_ends = (after * self._ends_of_stages(weights)[:, 0]).sum(axis=1)
        return np.asarray((after * self._fewest[0]).sum(axis=1) * weights.layers.min(axis=1) + of_ends)

    @cached_property
    def _shares(self) -> Array:
        """(S, 2): the shares of the embedding and of the head that a stage holds."""
        return ends_of(self.pp * self.chunks, spread=self.floor.spread)

    def _ends_of_stages(self, values: Rows) -> Array:
        """(E, P, chunks): what each stage of a rank has of the embedding's and the head's `values` (E,)."""
        return np.asarray((values.ends @ self._shares.T)[:, self._stages])

    @cached_property
    def _microbatches(self) -> Array:
        return self.costs.space.column("microbatches", self.entries).astype(float)

    @cached_property
    def _ramps(self) -> _Ramp:
        """(E, P, chunks) each."""
        shown = np.minimum(self._microbatches.astype(np.int64), 2 * self.pp)
        shapes = np.stack([self.costs.space.schedule[self.entries], shown])
        distinct, place = np.unique(shapes, axis=1, return_inverse=True)
        found = [ramp(SCHEDULES[name], self.pp, self.chunks, int(count)) for name, count in distinct.T]
        return _Ramp(*(np.stack(part)[place.reshape(-1)] for part in zip(*found, strict=True)))

    @property
    def _name(self) -> ScheduleName:
        return self.costs.space.schedule_name(self.entries[0])

    @cached_property
    def _ranks(self) -> IntArray:
        """(S,): the rank of each stage."""
        return np.array(stage_ranks(self._name, self.pp, self.pp * self.chunks))

    @cached_property
    def _stages(self) -> IntArray:
        """(P, chunks): the stages of each rank."""
        return by_rank(self._name, self.pp, np.arange(self.pp * self.chunks)).T

    @cached_property
    def _sizes(self) -> tuple[IntArray, IntArray]:
        """(S,) each: fewest and most layers of a stage."""
        layers = self.ranges.layer_count
        sizes = chunk_sizes(layers, self.pp, self.chunks, self.costs.space.even_stages)
        fewest = np.maximum(0, sizes.fewest - (layers - self._layers))  # a stage may hold all layers of other classes
        return fewest.T.reshape(-1), sizes.most.T.reshape(-1)

    @cached_property
    def _fewest(self) -> IntArray:
        """(P, chunks): fewest layers of each stage of a rank."""
        return self._sizes[0][self._stages]

    @cached_property
    def _most_of_rank(self) -> IntArray:
        return np.asarray(self._sizes[1][self._stages].sum(axis=1))

    @property
    def _hops(self) -> int:
        """Messages on the way of a microbatch through all stages."""
        return int((np.diff(self._ranks) != 0).sum())

    @property
    def _hops_below(self) -> IntArray:
        """(P,): messages from the last stage back to each rank's last stage."""
        crosses = np.append(np.diff(self._ranks) != 0, False)
        return np.asarray(crosses[::-1].cumsum()[::-1][self._stages[:, -1]])
