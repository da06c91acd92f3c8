"""Ranking of partitions by dynamic programming over stages, from the last to the first.

Symbols: P stages; M microbatches; stage s has forward f_s, backward b_s, x_s = f_s + b_s and first-forward extra e_s; c
is one message; w_s = min(M - 1, P - 1 - s) warm-up forwards. For the stages from s on, from the start of the first
forward on s to the end of the last backward there:

    D_s = sum_{t>s} (x_t + 2c)                 a microbatch's round trip below s
    own = e_s + f_s + max(w_s f_s, D_s + sum_{t>s} e_t) + (M - 1 - w_s) x_s + max(w_s b_s, D_s) + b_s
    R_s = max(own, e_s + x_s + 2c + R_{s+1})

`own` is the path that waits at stage s for all microbatches, under 1F1B. Where M - 1 = w_s no forward follows the first
backward, so the two maxima may not both take the round trip. `own` is a path of the schedule's graph, so R_0 is a lower
bound on the end of the pipeline. The values above stage s never fall when D_s or R_s rises. The Pareto-best labels
(D, R) of each (stage, first layer) are therefore enough. Extras depend on the first layer alone.
"""

from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.costmodel.tables import Rows

from .bottleneck import smallest_largest
from .paths import waiting_arms
from .tables import StageTables

_LABELS = 8  # kept for each (stage, first layer); the dropped ones lower the bound
_EVALUATED = 32


class Ranked(NamedTuple):
    """Partitions (B, S) in order of their bound, and a lower bound on every active partition."""

    layers: IntArray
    bound_seconds: float


class _Front(NamedTuple):
    """Labels (L + 1, labels) by first layer; infinite where there is none.

    `length` is that of the first stage, `link` the label of the stages after it.
    """

    round_trip: Array
    path: Array
    length: IntArray
    link: IntArray


@dataclass
class LabelSearch:
    """Finds the active partitions whose longest path `R_0` is shortest."""

    tables: StageTables
    active: Array

    def run(self) -> Ranked:
        entry, layers = self.tables.entry, self.tables.ranges.layer_count
        self._dropped = np.inf
        fronts = [self._after_the_last(layers)]
        for stage in range(entry.pp - 1, 0, -1):
            fronts.insert(0, self._pruned(stage, self._extended(stage, fronts[0])))
        first = self._extended(0, fronts[0])
        lengths, links = first.length[0], first.link[0]
        kinds = self.tables.ranges.kind_of[0, lengths]
        slowest, _ = smallest_largest(np.where(self.active, self.tables.seconds.optimizer, np.inf), self.tables.ranges)
        once = self.tables.least_tail[0, kinds] + np.maximum(slowest, self.tables.seconds.optimizer[0, kinds])
        bounds = first.path[0] + once
        order = np.argsort(bounds, kind="stable")[:_EVALUATED]
        order = order[np.isfinite(bounds[order])]
        found = [self._traced(fronts, int(lengths[place]), int(links[place])) for place in order]
        return Ranked(np.array(found), min(float(bounds[order[0]]), float(self._dropped + slowest)))

    def _after_the_last(self, layers: int) -> _Front:
        nothing = np.full((layers + 1, 1), np.inf)
        nothing[layers] = 0.0
        zero = np.zeros((layers + 1, 1), dtype=np.int64)
        return _Front(nothing, np.where(nothing == 0, -np.inf, np.inf), zero, zero)

    def _extended(self, stage: int, rest: _Front) -> _Front:
        """(L + 1, lengths x labels): every label of `rest` with every active range before it."""
        tables, entry = self.tables, self.tables.entry
        kind_of, layers = tables.ranges.kind_of, tables.ranges.layer_count
        lengths = np.unique(tables.ranges.lengths[self.active[stage]])
        start = np.arange(layers + 1)[:, None]
        end = np.minimum(start + lengths, layers)
        kind = np.where(start + lengths <= layers, kind_of[start, end], -1)
        usable = (kind >= 0) & self.active[stage][kind]
        forward, backward, extra = (
            np.where(usable, values[stage][kind], 0.0)[..., None]
            for values in (tables.seconds.forward, tables.seconds.backward, tables.seconds.first_forward_extra)
        )
        hop = 2 * float(entry.sends[stage]) if stage < entry.pp - 1 else 0.0
        below = np.where(usable[..., None], rest.round_trip[end] + hop, np.inf)
        own = self._own_path(stage, forward, backward, below, below + self._extras_below(stage)[end][..., None])
        path = extra + np.maximum(own, forward + backward + hop + rest.path[end])
        shape = below.shape
        link = np.broadcast_to(np.arange(shape[2]), shape)
        length = np.broadcast_to(lengths[None, :, None], shape)
        flat = (layers + 1, shape[1] * shape[2])
        trip = forward + backward + below
        return _Front(*(part.reshape(flat) for part in (trip, path, length, link)))

    def _own_path(self, stage: int, forward: Array, backward: Array, below: Array, first_below: Array) -> Array:
        entry = self.tables.entry
        arms = waiting_arms(entry.schedule, entry.pp, stage, entry.microbatches)
        waits = [
            arm.forwards * forward
            + arm.backwards * backward
            + (first_below if arm.first_trip else 0.0)
            + (below if arm.trip else 0.0)
            for arm in arms
        ]
        return np.asarray(forward + reduce(np.maximum, waits) + backward)

    def _extras_below(self, stage: int) -> Array:
        """(L + 1,): first-forward extras of the stages below `stage`, which hold the layers from i on; 0 where none is left."""
        entry, ranges, layers = self.tables.entry, self.tables.ranges, self.tables.ranges.layer_count
        held = ranges.counts[ranges.kind_of[np.arange(layers), layers]]
        return np.append(entry.rows.first_forward.total(held, entry.ends[stage + 1 :].sum(axis=0)), 0.0)

    def _pruned(self, stage: int, labels: _Front) -> _Front:
        """Return the Pareto-best labels with the shortest paths for each first
        layer; record the bound of the dropped ones."""
        order = np.lexsort((labels.round_trip, labels.path), axis=1)
        parts = [np.take_along_axis(part, order, axis=1) for part in labels]
        trip, path = parts[0], parts[1]
        before = np.full(trip.shape, np.inf)
        before[:, 1:] = np.minimum.accumulate(trip, axis=1)[:, :-1]
        best = (trip < before * (1 - 1e-12)) & np.isfinite(path)
        place = np.cumsum(best, axis=1) - 1
        dropped = best & (place >= _LABELS)
        if dropped.any():
            self._dropped = min(self._dropped, float((path + self._before(stage)[:, None])[dropped].min()))
        row, column = np.nonzero(best & ~dropped)
        width = min(_LABELS, int(best.sum(axis=1).max(initial=1)))
        kept = _Front(*(np.full((len(trip), max(1, width)), fill) for fill in (np.inf, np.inf, 0, 0)))
        for whole, part in zip(kept, parts, strict=True):
            whole[row, place[row, column]] = part[row, column]
        return kept

    def _before(self, stage: int) -> Array:
        """(L + 1,): the least time of the first microbatch above `stage`, where that stage starts at layer i."""
        entry, ranges = self.tables.entry, self.tables.ranges
        rows = entry.rows
        backward = Rows(rows.backward.layers.min(axis=-1), rows.backward.first, rows.backward.last)
        each, held = rows.forward + backward + rows.first_forward, ranges.counts[ranges.kind_of[0, 1:]]
        above = each.total(np.concatenate([0 * held[:1], held]), entry.ends[:stage].sum(axis=0))
        return np.asarray(above + 2 * float(entry.sends[:stage].sum()))

    def _traced(self, fronts: list[_Front], length: int, link: int) -> list[int]:
        lengths, start = [length], length
        for front in fronts[:-1]:
            length, link = int(front.length[start, link]), int(front.link[start, link])
            lengths.append(length)
            start += length
        return lengths
