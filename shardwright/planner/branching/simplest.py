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


def simplest(run: BranchAndBound, tolerance: float, *, most_looked_at: int | None = None) -> Solved:
    """Return the simplest plan that takes at most 1 + `tolerance` times as long as the best of a finished `run`.

    For each kind of plan at most a few entries are solved, those with the lowest bounds. With `most_looked_at` only so many
    entries are looked at in all, the simplest kinds and the lowest bounds first.
    """
    assert run.best is not None
    most = run.best.step_seconds * (1 + tolerance)
    kinds, own = _kinds(run.space), run.best.entry
    near = np.flatnonzero(run.entries.chosen & (run.entries.bounds <= most) & (kinds <= kinds[own]))
    for kind in np.unique(kinds[near]):
        alike = near[kinds[near] == kind]
        if most_looked_at is not None:
            alike = alike[np.argsort(run.entries.bounds[alike], kind="stable")][:most_looked_at]
            most_looked_at -= len(alike)
        run.entries.sharpen(alike)
        alike = np.sort(alike[run.entries.bounds[alike] <= most])
        for search in _searches(run, alike, most) if len(alike) else ():
            search.run(most_solved=_MOST_SOLVED)
            if search.best is not None:
                return search.best
    return run.best


def complexity(space: Space, solved: Solved) -> tuple[int, bool]:
    """Return a plan's place in the order of simplicity: the number of its kind, and whether it recomputes anything."""
    recomputes = bool(
        solved.mix.sum(axis=(0, 1))[[policy for policy in range(len(POLICIES)) if policy != _NOTHING]].any()
    )
    return int(_kinds(space)[solved.entry]), recomputes


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
