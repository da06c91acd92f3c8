"""Partitions of the layers over the stages under a schedule that splits the backward, with one stage on each rank.

The labels of labels.py are paths of 1F1B and GPipe, and don't bound these schedules. Few partitions are all evaluated.
Otherwise the search starts from the partition whose busiest rank has the least work, and moves single layers off the busiest
ranks for as long as that shortens the step. Up to 20,000 partitions are then ruled out by critical paths; of more the bound is that
of the entry (planner/bounds/split_backward.py).
"""

import numpy as np

from shardwright.base import Array, IntArray

from .bottleneck import smallest_largest
from .critical_paths import CriticalPaths
from .partition import (
    EVALUATE_ALL,
    RULED_OUT_TO_CLOSE_A_GAP,
    Partition,
    allowed_ranges,
    best_of,
    closed,
    compositions,
    ways_to_hold,
)
from .tables import StageTables

_IMPROVE_WITHIN = 1.02
_IMPROVING_ROUNDS = 12
_BUSIEST = 3
# Passes of a schedule times plans that are evaluated at once: about 10 ns each.
_MOST_AT_ONCE = 4_000_000


def best_split_partition(
    tables: StageTables, bound_seconds: float, limit_seconds: float, paths: CriticalPaths
) -> Partition | None:
    """Return the best partition found, or None where none fits with its own work below `limit_seconds`.

    `bound_seconds`: the lower bound of the entry, which the result keeps where not all partitions were ruled out.
    """
    work = _work_seconds(tables)
    active = tables.feasible & allowed_ranges(tables.entry, tables.ranges) & (work < limit_seconds)
    ways = ways_to_hold(tables, active)
    if ways[0][0] == 0:
        return None
    if ways[0][0] <= min(EVALUATE_ALL, _most_plans(tables)):
        return best_of(tables, compositions(tables, active, ways), None)
    _, start = smallest_largest(np.where(active, work, np.inf), tables.ranges)
    best = best_of(tables, np.array([start]), bound_seconds)
    for _ in range(_IMPROVING_ROUNDS):
        near = _moved(tables, active, work, best.layers)
        if not len(near) or best.step_seconds > limit_seconds * _IMPROVE_WITHIN:
            break
        found = best_of(tables, near, bound_seconds)
        if found.step_seconds >= best.step_seconds:
            break
        best = found
    below = min(limit_seconds, best.step_seconds)
    if ways[0][0] > RULED_OUT_TO_CLOSE_A_GAP or best.bound_seconds >= below:
        return best
    return closed(tables, compositions(tables, active, ways), below, paths, best)


def _work_seconds(tables: StageTables) -> Array:
    """(S, V): a rank's own work in a step, below which no step is; infinite where a range does not fit."""
    seconds = tables.seconds
    once = seconds.first_forward_extra + tables.least_tail + seconds.optimizer
    return np.asarray(tables.entry.microbatches * (seconds.forward + seconds.backward) + once)


def _most_plans(tables: StageTables) -> int:
    entry = tables.entry
    return max(1, _MOST_AT_ONCE // (3 * entry.microbatches * entry.stages))


def _moved(tables: StageTables, active: Array, work: Array, layers: tuple[int, ...]) -> IntArray:
    """(B, S): the partitions that take one layer off one of the busiest ranks and give it to another."""
    stages, held = np.arange(len(layers)), np.array(layers)
    busiest = np.argsort(-work[stages, tables.ranges.kinds(held)], kind="stable")[:_BUSIEST]
    each = np.eye(len(layers), dtype=np.int64)
    near = np.concatenate([held + each[stages != source] - each[source] for source in busiest])
    near = near[(near > 0).all(axis=1)]
    return np.asarray(near[active[stages, tables.ranges.kinds(near)].all(axis=1)][: _most_plans(tables)])
