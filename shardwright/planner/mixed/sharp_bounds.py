"""Sharp lower bounds of an arrangement's entries, from the cost tables of each group and the memory of each rank's device.

Symbols: M microbatches; position s of P has w_s = min(M - 1, P - 1 - s) warm-up forwards and keeps up to i_s microbatches; n
layers there take F forward and B backward. As in `stages/partition.py`, a step with them takes at least

    t_s(n) = once + (M - 1 - w_s) (F + B) + w_s max(F, B) + optimizer

B counts the recompute without which n layers do not fit: each layer may keep x = room / (i_s n) bytes on average, and the lower
convex hull of (bytes, seconds) over policies is least there. The bound is the smallest T with sum_s max {n: t_s(n) <= T} >= L.
Classes of layers are taken at their least. Long pipelines are cut into pieces of neighbours, which count like their best.
"""

from dataclasses import dataclass
from itertools import combinations, groupby

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.costmodel.pipeline import peak_in_flight
from shardwright.costmodel.tables import RowCosts, Rows
from shardwright.planner.space import layer_ranges

from .arrangement import Arrangement

_PIECES = 8  # of the positions in each group
_BISECTIONS = 14


@dataclass(frozen=True)
class _Piece:
    """Neighbouring positions of a pipeline in one group, `first` to `last`."""

    group: int
    first: int
    last: int

    @property
    def count(self) -> int:
        return self.last - self.first + 1


def sharp_bounds(arrangement: Arrangement, entries: IntArray, allowed: list[int]) -> Array:
    """(A,): seconds that every plan of each of `entries` takes at least; infinite where none fits."""
    space = arrangement.space
    found = np.empty(len(entries))
    shapes = np.stack([space.schedule[entries], space.base.pp[space.base_index[entries]]])
    for schedule, pp in np.unique(shapes, axis=1).T:
        alike = np.flatnonzero((shapes == np.array([[schedule], [pp]])).all(axis=0))
        found[alike] = _of_one_shape(arrangement, entries[alike], allowed)
    return found


def _of_one_shape(arrangement: Arrangement, entries: IntArray, allowed: list[int]) -> Array:
    space, bases = arrangement.space, arrangement.space.base_index[entries]
    pp, layers = int(space.base.pp[bases[0]]), layer_ranges(arrangement.model).whole
    microbatches = space.base.microbatches[bases]
    counts, which = np.unique(microbatches, return_inverse=True)
    name = space.schedule_name(int(entries[0]))
    alive = np.stack([peak_in_flight(name, pp, 1, int(count)) for count in counts])[which]
    rows = [costs.rows[bases] for costs in arrangement.costs]
    rooms = [costs.room_bytes[bases] for costs in arrangement.costs]
    sums = [(each.forward + each.backward.cheapest(allowed)) for each in rows]
    once = _least(sums).of_model(layers) + _least([each.optimizer for each in rows]).of_model(layers) / pp
    most = int(layers.sum()) - pp + 1
    pieces = _pieces(arrangement.ranks(int(entries[0])).group_of_rank)
    seconds = []
    for piece in pieces:
        forward, backward = _passes(
            rows[piece.group], rooms[piece.group], alive[:, piece.last], allowed, most, piece, pp
        )
        more = (microbatches - 1)[:, None]
        warm_up = np.minimum(more, pp - 1 - piece.first)
        fits = np.isfinite(backward)
        backward = np.where(fits, backward, 0.0)
        work = (more - warm_up) * (forward + backward) + warm_up * np.maximum(forward, backward)
        seconds.append(np.where(fits, once[:, None] + work, np.inf))
    return _smallest(np.stack(seconds, axis=1), np.array([piece.count for piece in pieces]), int(layers.sum()))


def _pieces(group_of_rank: tuple[int, ...]) -> list[_Piece]:
    found = []
    for group, ranks in groupby(range(len(group_of_rank)), key=lambda rank: group_of_rank[rank]):
        for part in np.array_split(np.array(list(ranks)), _PIECES):
            if len(part):
                found.append(_Piece(group, int(part[0]), int(part[-1])))
    return found


def _passes(
    rows: RowCosts, room: Array, alive: Array, allowed: list[int], most: int, piece: _Piece, pp: int
) -> tuple[Array, Array]:
    """(A, most) each: least seconds of forward and backward of 1, 2, ... layers on a piece; infinite where they do not fit."""
    layers = np.arange(1, most + 1)
    ends = np.array([float(piece.last == 0), float(piece.first == pp - 1)])

    def held(values: Rows) -> Array:
        return np.asarray(values.layers.min(axis=-1)[:, None] * layers + (values.ends @ ends)[:, None])

    def end(values: Rows) -> Array:
        return np.asarray((values.ends @ ends)[:, None])

    kept = rows.activation.layers.min(axis=1)[:, allowed]
    working = rows.working.layers[..., allowed].min(axis=(1, 2))[:, None]
    beside = 2 * rows.gather_window.layers.min(axis=-1) + rows.reduce_buffer.layers.min(axis=-1)
    static = held(rows.static)
    left = (room[:, None] - static) / (1 + rows.slack[:, None]) - beside[:, None] - working
    each = (left / alive[:, None] - end(rows.activation)) / layers
    fits = static + held(rows.step) <= room[:, None]
    hull = _hull(kept, rows.backward.layers.min(axis=1)[:, allowed], each)
    backward = np.where(fits, layers * hull + end(rows.backward), np.inf)
    return held(rows.forward), backward


def _hull(kept: Array, seconds: Array, room: Array) -> Array:
    """(A, n): least seconds of a layer that may keep `room` (A, n) bytes on average, of policies (A, P) and their mixtures."""
    found = np.full(room.shape, np.inf)
    for policy in range(kept.shape[1]):
        found = np.where(kept[:, policy, None] <= room, np.minimum(found, seconds[:, policy, None]), found)
    for one, other in combinations(range(kept.shape[1]), 2):
        low, high = np.minimum(kept[:, one], kept[:, other]), np.maximum(kept[:, one], kept[:, other])
        swapped = kept[:, one] > kept[:, other]
        at_low = np.where(swapped, seconds[:, other], seconds[:, one])
        at_high = np.where(swapped, seconds[:, one], seconds[:, other])
        share = np.clip((room - low[:, None]) / np.where(high > low, high - low, 1.0)[:, None], 0.0, 1.0)
        mixed = at_low[:, None] + share * (at_high - at_low)[:, None]
        found = np.where(low[:, None] <= room, np.minimum(found, mixed), found)
    return found


def _smallest(seconds: Array, counts: IntArray, layers: int) -> Array:
    """(A,): smallest T with which positions, `counts` (Q) of each piece, hold `layers`; `seconds` (A, Q, n) are for n layers each."""

    def held(limit: Array) -> Array:
        fitting = (seconds <= limit[:, None, None]).sum(axis=-1)
        return np.where((fitting > 0).all(axis=1), fitting @ counts, 0)

    finite = np.where(np.isfinite(seconds), seconds, 0.0)
    low, high = seconds[..., 0].max(axis=1), finite.max(axis=(1, 2))
    possible = np.isfinite(low) & (held(high) >= layers)
    low = np.where(possible, low, 0.0)
    enough = held(low) >= layers
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        holds = held(middle) >= layers
        low, high = np.where(holds | enough, low, middle), np.where(holds, middle, high)
    return np.where(possible, low, np.inf)


def _least(rows: list[Rows]) -> Rows:
    return Rows(*(np.min([getattr(each, name) for each in rows], axis=0) for name in ("layers", "first", "last")))
