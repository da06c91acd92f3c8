"""The simplest of the plans whose steps the prediction cannot tell apart.

Simpler is, in this order: fewer axes besides data parallelism; no pipeline, then one stage on each rank, then interleaved
stages, then a schedule that splits the backward; the optimizer on the device; nothing recomputed. Of equally simple plans the
fastest counts.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.planner.space import Space
from shardwright.planner.stages import Solved
from shardwright.specs import POLICIES

from .branch_and_bound import BranchAndBound
from .open_entries import OpenEntries

_AXES = ("pp", "cp", "tp", "ep")
_NOTHING = POLICIES.index("none")

# This limits work, not time, so that repeated runs find the same plan.
_MOST_SOLVED = 6


def simplest(run: BranchAndBound, tolerance: float) -> Solved:
    """Return the simplest plan that takes at most 1 + `tolerance` times as long as the best of a finished `run`.

    For each kind of plan at most a few entries are solved, those with the lowest bounds.
    """
    assert run.best is not None
    most = run.best.step_seconds * (1 + tolerance)
    kinds, own = _kinds(run.space), run.best.entry
    near = np.flatnonzero(run.entries.chosen & (run.entries.bounds <= most))
    run.entries.sharpen(near)
    near = near[(run.entries.bounds[near] <= most) & (kinds[near] <= kinds[own])]
    for kind in np.unique(kinds[near]):
        for search in _searches(run, near[kinds[near] == kind], most):
            search.run(most_solved=_MOST_SOLVED)
            if search.best is not None:
                return search.best
    return run.best


def _kinds(space: Space) -> IntArray:
    """(N,): a number for each entry; lower is simpler."""
    replicated_shards = (space.column("dp_replicate") > 1) & (space.column("dp_shard") > 1)
    axes = sum(((space.column(name) > 1).astype(np.int64) for name in _AXES), 1 * replicated_shards)
    pipeline = (space.column("pp") > 1).astype(np.int64) + (space.stages_per_rank > 1)
    pipeline = np.where(space.splits, 3, pipeline)
    return np.asarray((axes * 4 + pipeline) * 2 + space.column("offload_optimizer"))


def _searches(run: BranchAndBound, entries: IntArray, most: float) -> Iterator[BranchAndBound]:
    """Yield searches over `entries` for plans within `most` seconds: without recompute, then with it."""
    among: Array = np.zeros(len(run.space), dtype=bool)
    among[entries] = True
    if _NOTHING in run.solver.allowed and run.solver.given is None:
        solver = replace(run.solver, allowed=[_NOTHING])
        bounds = run.entries.bounds.copy()
        yield BranchAndBound(solver, OpenEntries(solver, bounds, np.isinf(bounds), among), run.times, ceiling=most)
    yield BranchAndBound(run.solver, run.entries.among(among), run.times, ceiling=most)
