"""Stage tables: the costs of each range of layers on each pipeline position, with the cheapest recompute mix that fits.

Of the costs of a stage the mix changes the backward. The step never gets shorter when a backward gets longer. With one
stage on each rank, a stage does not share its memory, so its cheapest mix does not depend on the other stages. The rest
of the search can then ignore recomputation.

The mix also changes the tail of reductions behind the last backward. That effect is smaller, comes once a step, and has
the opposite sign. Lower bounds count the least tail of any mix; small entries try every mix.
"""

from dataclasses import dataclass, replace

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.costmodel.pipeline import peak_in_flight, split_counts, waiting_counts
from shardwright.costmodel.tables import Rows, StageSeconds, stage_seconds
from shardwright.planner.mixes import Mixes, MixSolver, OffloadMixes, OffloadMixSolver, Postponed, Room
from shardwright.planner.space import EntryCosts, LayerRanges
from shardwright.specs import splits_backward


@dataclass(frozen=True)
class StageTables:
    """Costs of stages by pipeline position (S) and kind of layer range (V).

    Attributes:
        seconds: (S, V) each, with the mix. A range that does not fit has an infinite `backward`.
        shortest_tail, least_both: lower bounds on `seconds.reduce_tail` over all mixes, and on its sum with the backward. More
            compute hides a tail better, so the mix with the shortest backward need not have the shortest tail. But a rank's last
            backward comes just before its tail, so a mix saves no more than the least sum of both.
        mix: (S, V, classes, policies), counts of layers.
        least_backward: (S, V), lower bound on `seconds.backward` over all mixes that fit, where the mix may not be the cheapest;
            None where it is.
    """

    entry: EntryCosts
    ranges: LayerRanges
    seconds: StageSeconds
    shortest_tail: Array
    mix: IntArray
    least_both: Array
    least_backward: Array | None = None

    @property
    def least_tail(self) -> Array:
        """(S, V): lower bound on `seconds.reduce_tail` over all mixes, in a step that is no longer for their longer backward."""
        both = np.where(self.feasible, self.least_both - np.where(self.feasible, self.seconds.backward, 0.0), 0.0)
        return np.maximum(self.shortest_tail, both)

    @property
    def lower(self) -> "StageTables":
        """The tables with the least backward of any mix, as far as it is known; the mixes are those of this table."""
        if self.least_backward is None:
            return self
        return replace(self, seconds=replace(self.seconds, backward=self.least_backward), least_backward=None)

    @property
    def feasible(self) -> Array:
        """(S, V): whether some mix fits."""
        return np.isfinite(self.seconds.backward)


def stage_tables(
    entry: EntryCosts, ranges: LayerRanges, allowed: list[int], wanted: Array | None = None
) -> StageTables:
    """Build the tables of an entry with one stage on each rank.

    `wanted` (S, V): where activations may go to the host, the ranges to look at; the others count as too large.
    """
    ends, layers, tails = entry.ends[:, None], ranges.counts, entry.rows.last_backward
    solver, room = mix_solver(entry, allowed), stage_room(entry, layers)
    mixes = solver.solve(layers, room, wanted) if isinstance(solver, OffloadMixSolver) else solver.solve(layers, room)
    seconds = stage_seconds(entry.rows, mixes.counts, ends)
    least, both = (
        Rows(part.layers[:, allowed].min(axis=1), part.first, part.last)
        for part in (tails, entry.rows.backward + tails)
    )
    backward = np.where(np.isfinite(mixes.seconds), seconds.backward, np.inf)
    least_both = both.total(layers, ends)
    if isinstance(solver, OffloadMixSolver) and entry.pp > 1:  # memory keeps the sum up, too
        sums = replace(solver, seconds=(entry.rows.backward + tails).layers)
        least_both = np.maximum(
            least_both, sums.least(layers, room, wanted) + (entry.ends * both.ends).sum(axis=-1)[:, None]
        )
    return StageTables(
        entry=entry,
        ranges=ranges,
        seconds=replace(seconds, backward=backward),
        least_backward=_least_backward(entry, mixes, backward, layers),
        shortest_tail=least.total(layers, ends),
        least_both=least_both,
        mix=mixes.counts,
    )


def _least_backward(entry: EntryCosts, mixes: Mixes, backward: Array, layers: IntArray) -> Array | None:
    """(S, V): the bound of the mixes as a backward, as long as the others' seconds stay."""
    if not isinstance(mixes, OffloadMixes):
        return None
    passes = entry.microbatches if entry.pp == 1 else 1
    ends = (entry.ends * entry.rows.backward.ends).sum(axis=-1)[:, None]
    found = np.isfinite(mixes.seconds)
    known = backward - np.where(found, np.where(found, mixes.seconds, 0.0) - mixes.least, 0.0) / passes
    once = entry.rows.last_backward.layers.max(axis=1) if entry.pp == 1 else np.zeros(entry.rows.classes)
    unknown = ends + np.maximum(0.0, mixes.least - layers @ once) / passes
    return np.where(found, known, np.where(np.isfinite(mixes.least), unknown, np.inf))


def mix_solver(entry: EntryCosts, allowed: list[int]) -> MixSolver | OffloadMixSolver:
    """Return a solver with the seconds that each policy of a layer adds to the step.

    In a pipeline these are the seconds of its backward, because the step rises with it. The tail of reductions comes
    once and is left out. Without a pipeline the step is a sum, so they are the seconds of all backwards and the tail.
    """
    rows = entry.rows
    seconds = rows.backward.layers
    if entry.pp == 1:
        seconds = entry.microbatches * seconds + rows.last_backward.layers
    kept, working = rows.activation.layers, rows.working.layers
    if rows.host_activation is not None and (rows.host_activation.layers[:, allowed] > 0).any():
        return OffloadMixSolver(seconds, kept, working, rows.host_activation.layers, allowed)
    return MixSolver(seconds, kept, working, allowed)


def stage_room(entry: EntryCosts, layers: IntArray) -> Room:
    """Return the memory limit for mixes of `layers` (V, K).

    It is below zero where static memory, the host's share or the optimizer update does not fit.
    """
    ends, rows, shape = entry.ends, entry.rows, (entry.schedule, entry.pp)
    in_flight = peak_in_flight(*shape, 1, entry.microbatches)
    in_flight = in_flight + waiting_counts(entry.vocabulary, *shape, entry.pp, entry.microbatches)
    host = entry.host_room_bytes - rows.host.total(layers, ends[:, None])
    on_drives = rows.nvme.total(layers, ends[:, None]) <= entry.nvme_room_bytes
    room = rows.held(layers, ends[:, None]).activation_room(np.array(entry.room_bytes))
    return Room(
        moving=np.where((host >= 0) & on_drives, room, -np.inf),
        alive=in_flight.astype(float),
        end_kept=(ends * rows.activation.ends).sum(axis=-1),
        end_working=(ends * rows.working.ends).max(axis=-1),
        postponed=_postponed(entry, layers) if splits_backward(entry.schedule) else None,
        host=host,
    )


def _postponed(entry: EntryCosts, layers: IntArray) -> Postponed:
    """Return the moments of a schedule that splits the backward; the last repeats where a rank has fewer."""
    counts = split_counts(entry.schedule, entry.pp, 1, entry.microbatches)
    places = np.arange(max(map(len, counts)))
    moments = np.stack([each[np.minimum(places, len(each) - 1), :, 0] for each in counts])
    each_bytes = entry.rows.postponed.total(layers, entry.ends[:, None])
    return Postponed(moments[..., 0], moments[..., 1], each_bytes)
