"""Stage tables: what each pipeline position pays for each range of layers, with the cheapest recompute mix that fits.

Of what a stage takes, the mix changes its backward, and the step never gets shorter when a backward gets longer. With one
stage a rank the memory of a stage is its own, so its cheapest mix is right whatever the other stages are, and the rest of
the search can forget recomputation. The mix also changes the tail of reductions behind the last backward: by less, once a
step, and the other way. Lower bounds count the least tail of any mix; small entries try every mix.
"""

from dataclasses import dataclass

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.costmodel.pipeline import peak_in_flight
from shardwright.planner.space import EntryCosts, LayerRanges

from .recompute_mix import MixSolver, Room


@dataclass(frozen=True)
class StageTables:
    """Seconds by pipeline position (S) and kind of layer range (V); `backward` is infinite where nothing fits.

    `reduce_tail` is `last_backward` of the rows, `least_tail` what it is at least with any mix: more compute hides a tail
    better, so the mix with the shortest backward need not have the shortest tail. `mix` (S, V, classes, policies) counts layers.
    """

    entry: EntryCosts
    ranges: LayerRanges
    forward: Array
    backward: Array
    first_forward: Array
    reduce_tail: Array
    least_tail: Array
    optimizer: Array
    mix: IntArray

    @property
    def feasible(self) -> Array:
        """(S, V): some mix fits."""
        return np.isfinite(self.backward)


def ends_of(positions: int) -> Array:
    """(S, 2): whether a position holds the embedding, and the head."""
    ends = np.zeros((positions, 2))
    ends[0, 0] = ends[-1, 1] = 1.0
    return ends


def row_totals(values: Array, layers: IntArray, ends: Array) -> Array:
    """(S, V) sums of `values` (R,) over `layers` (V, K) of each class and the rows at the pipeline's ends."""
    kinds = layers.shape[1]
    return np.asarray((layers @ values[:kinds])[None, :] + (ends @ values[kinds:])[:, None])


def row_largest(values: Array, layers: IntArray, ends: Array) -> Array:
    """(S, V) likewise, the largest instead of the sum."""
    kinds = layers.shape[1]
    of_layers = np.where(layers > 0, values[:kinds], 0.0).max(axis=1)
    return np.asarray(np.maximum(of_layers[None, :], (ends * values[kinds:]).max(axis=1)[:, None]))


def moving_room(entry: EntryCosts, layers: IntArray, ends: Array) -> Array:
    """(S, V) bytes left for kept and working activations; below zero where what stays, the host or the update does not fit."""
    rows = entry.rows
    static = row_totals(rows.static, layers, ends)
    left = (rows.room - static) / (1 + rows.slack)
    left = left - 2 * row_largest(rows.gather_window, layers, ends) - row_largest(rows.reduce_buffer, layers, ends)
    updates = static + row_totals(rows.step, layers, ends) <= rows.room
    return np.where(updates & (row_totals(rows.host, layers, ends) <= entry.host_room_bytes), left, -np.inf)


def stage_tables(entry: EntryCosts, ranges: LayerRanges, allowed: list[int]) -> StageTables:
    """Tables of an entry with one stage on each rank (1F1B, GPipe, no pipeline)."""
    ends, layers, rows = ends_of(entry.pp), ranges.counts, entry.rows
    mixes = mix_solver(entry, layers.shape[1], allowed).solve(layers, stage_room(entry, layers))
    chosen = mixes.counts.astype(float)
    of_layers = slice(0, layers.shape[1])

    def with_mix(values: Array) -> Array:
        """Sum over the rows with each layer under its policy."""
        at_ends = (ends @ values[layers.shape[1] :, 0])[:, None]
        return np.asarray(np.einsum("svkp,kp->sv", chosen, values[of_layers]) + at_ends)

    fits = np.isfinite(mixes.seconds)
    least_tail = np.append(
        rows.last_backward[of_layers][:, allowed].min(axis=1), rows.last_backward[layers.shape[1] :, 0]
    )
    return StageTables(
        entry=entry,
        ranges=ranges,
        forward=row_totals(rows.forward, layers, ends),
        backward=np.where(fits, with_mix(rows.backward), np.inf),
        first_forward=row_totals(rows.first_forward, layers, ends),
        reduce_tail=with_mix(rows.last_backward),
        least_tail=row_totals(least_tail, layers, ends),
        optimizer=row_totals(rows.optimizer, layers, ends),
        mix=mixes.counts,
    )


def mix_solver(entry: EntryCosts, classes: int, allowed: list[int]) -> MixSolver:
    """What a layer costs the step under each policy.

    In a pipeline its backward, of which the step is a rising function; the tail of reductions, met once, is left aside.
    Without one the step is a sum, of every backward and the tail.
    """
    rows = entry.rows
    seconds = rows.backward[:classes]
    if entry.pp == 1:
        seconds = entry.microbatches * seconds + rows.last_backward[:classes]
    return MixSolver(seconds, rows.activation[:classes], rows.working[:classes], allowed)


def stage_room(entry: EntryCosts, layers: IntArray) -> Room:
    """Where the mixes of `layers` (V, K) must fit."""
    ends, rows, classes = ends_of(entry.pp), entry.rows, layers.shape[1]
    return Room(
        moving=moving_room(entry, layers, ends),
        alive=peak_in_flight(entry.schedule, entry.pp, 1, entry.microbatches).astype(float),
        end_kept=ends @ rows.activation[classes:, 0],
        end_working=(ends * rows.working[classes:, 0]).max(axis=1),
    )
