"""The best partition of the layers over the stages, with one stage on each rank: exact where possible, else with its
gap.

The step of a partition is `costmodel.pipeline.step_seconds`. Dynamic programming over real paths through the schedule
finds the partitions that are worth evaluating. Such a path is never longer than the longest path, which is the step.
"""

from dataclasses import dataclass, replace

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.costmodel.pipeline import StageCosts, step_seconds
from shardwright.costmodel.tables import Rows
from shardwright.planner.space import EntryCosts, LayerRanges

from .critical_paths import CriticalPaths
from .labels import LabelSearch
from .tables import StageTables

# Up to 64 partitions are cheaper to evaluate than to rank. Up to 20,000 are ruled out by critical paths where ranking leaves
# a gap, up to 4096 of them to the last digit.
EVALUATE_ALL = 64
_RULED_OUT_EXACTLY = 4096
RULED_OUT_TO_CLOSE_A_GAP = 20000
_CLOSED = 1e-9
# A partition within this factor of the limit may still become the best by moves of single layers.
_IMPROVE_WITHIN = 1.01
_IMPROVING_ROUNDS = 8


@dataclass(frozen=True)
class Partition:
    """Layers of each stage (S,), their step, and a lower bound over all partitions of the entry."""

    layers: tuple[int, ...]
    step_seconds: float
    bound_seconds: float


def best_partition(tables: StageTables, limit_seconds: float, paths: CriticalPaths) -> Partition | None:
    """Return the best partition that takes less than `limit_seconds`, or None where none of these fits."""
    bounds = np.where(tables.feasible & allowed_ranges(tables.entry, tables.ranges), stage_bounds(tables), np.inf)
    active = bounds < limit_seconds
    ways = ways_to_hold(tables, active)
    if ways[0][0] == 0:
        return None
    if ways[0][0] <= EVALUATE_ALL:
        return best_of(tables, compositions(tables, active, ways), None)
    labels = LabelSearch(tables, active).run()
    best = best_of(tables, labels.layers, labels.bound_seconds)
    proven = best.bound_seconds >= min(best.step_seconds * (1 - _CLOSED), limit_seconds)
    if proven or ways[0][0] > RULED_OUT_TO_CLOSE_A_GAP:
        worth_it = not proven and best.step_seconds < limit_seconds * _IMPROVE_WITHIN
        return _improved(tables, bounds, best) if worth_it else best
    return closed(tables, compositions(tables, active, ways), min(limit_seconds, best.step_seconds), paths, best)


def closed(
    tables: StageTables, layers: IntArray, limit_seconds: float, paths: CriticalPaths, best: Partition
) -> Partition:
    """Return the best of all partitions (B, S), or `best` where none is below the limit, with a bound that is nearly exact.

    The bound is that of the shortest tails, as in `best_of`.
    """
    costs, least = (_costs(tables, layers, tails) for tails in (None, tables.least_tail))
    index, seconds, bound = paths.fastest(costs, limit_seconds, least, exact=len(layers) <= _RULED_OUT_EXACTLY)
    bound = max(best.bound_seconds, bound)
    if seconds < best.step_seconds:
        return Partition(tuple(layers[index].tolist()), seconds, min(seconds, bound))
    return replace(best, bound_seconds=min(best.step_seconds, bound))


def allowed_ranges(entry: EntryCosts, ranges: LayerRanges) -> Array:
    """(V,): the ranges that a stage may hold: only those of the even share where stages must be even."""
    if not entry.even_stages:
        return np.ones(len(ranges.counts), dtype=bool)
    return np.asarray(ranges.lengths == ranges.layer_count // entry.pp)


def _improved(tables: StageTables, bounds: Array, best: Partition) -> Partition:
    """Move single layers between stages for as long as that shortens the step. `bounds` (S, V): see `stage_bounds`."""
    stages = len(best.layers)
    source, target = np.nonzero(~np.eye(stages, dtype=bool))
    moves = np.eye(stages, dtype=np.int64)[target] - np.eye(stages, dtype=np.int64)[source]
    for _ in range(_IMPROVING_ROUNDS):
        near = np.array(best.layers) + moves
        near = near[(near > 0).all(axis=1)]
        near = near[(bounds[np.arange(stages), tables.ranges.kinds(near)] < best.step_seconds).all(axis=1)]
        found = best_of(tables, near, best.bound_seconds) if len(near) else best
        if found.step_seconds >= best.step_seconds:
            break
        best = found
    return best


def stage_bounds(tables: StageTables) -> Array:
    """(S, V): lower bound on the step of every partition that gives this range to this stage.

    The first microbatch passes every stage once. Stage s works on other microbatches in the meantime. Let w_s =
    min(M - 1, P - 1 - s). That work is at least (M - 1 - w_s) cycles, and w_s times the longer of forward and backward.
    """
    entry = tables.entry
    more, position = entry.microbatches - 1, np.arange(entry.pp)[:, None]
    warm_up = np.minimum(more, entry.pp - 1 - position)
    forward = tables.seconds.forward
    backward = np.where(tables.feasible, tables.seconds.backward, 0.0)  # ranges that don't fit are never used
    longest = np.maximum(forward, backward)
    rows, whole = entry.rows, tables.ranges.whole
    cheapest = Rows(rows.backward.layers.min(axis=-1), rows.backward.first, rows.backward.last) + rows.forward
    once = cheapest.total(whole, np.ones(2)) + 2 * float(entry.sends.sum())
    return np.asarray(once + (more - warm_up) * (forward + backward) + warm_up * longest)


def evaluate(tables: StageTables, layers: IntArray, *, tails: Array | None = None) -> Array:
    """Return the step in seconds of each partition (B, S). `tails` (S, V) replace the tails of the mixes."""
    return step_seconds(tables.entry.schedule, _costs(tables, layers, tails), tables.entry.microbatches)


def _costs(tables: StageTables, layers: IntArray, tails: Array | None) -> StageCosts:
    entry, kinds = tables.entry, tables.ranges.kinds(layers)
    stage = np.arange(entry.pp)
    seconds = tables.seconds[stage, kinds]
    if tails is not None:
        seconds = replace(seconds, reduce_tail=tails[stage, kinds])
    return seconds.costs(entry.schedule, entry.pp, entry.sends)


def best_of(tables: StageTables, layers: IntArray, bound_seconds: float | None) -> Partition:
    """Return the best of these partitions.

    Without `bound_seconds` they are all partitions of the entry, and their step with the least tails is the bound.
    """
    seconds = evaluate(tables, layers)
    best = int(np.argmin(seconds))
    found = float(seconds[best])
    if bound_seconds is None:
        exact = tables.entry.pp == 1  # here the mix counts its tail
        bound_seconds = found if exact else float(evaluate(tables, layers, tails=tables.least_tail).min())
    return Partition(tuple(layers[best].tolist()), found, min(found, bound_seconds))


def ways_to_hold(tables: StageTables, active: Array) -> list[Array]:
    """[S + 1] of (L + 1,): number of ways in which stages s.. can hold the layers from i on."""
    kind_of, layers = tables.ranges.kind_of, tables.ranges.layer_count
    ways = [np.eye(layers + 1)[layers]]
    for mask in active[::-1]:
        ways.insert(0, np.where(kind_of >= 0, mask[kind_of], False) @ ways[0])
    return ways


def compositions(tables: StageTables, active: Array, ways: list[Array]) -> IntArray:
    """(B, S): every active partition."""
    kind_of, layers = tables.ranges.kind_of, tables.ranges.layer_count
    ends = np.zeros((1, 1), dtype=np.int64)
    for stage, mask in enumerate(active):
        start = ends[:, -1:]
        end = np.arange(layers + 1)[None, :]
        kinds = kind_of[start, end]
        row, chosen = np.nonzero((kinds >= 0) & mask[kinds] & (ways[stage + 1][end] > 0))
        ends = np.concatenate([ends[row], chosen[:, None]], axis=1)
    return np.diff(ends, axis=1)
