"""The simplest of the plans whose steps the prediction cannot tell apart.

Simpler is, in this order: fewer axes besides data parallelism; no pipeline, then one stage on each rank; the optimizer on
the device; the training spec as given, where the planner may change it, and the usual order of the axes; nothing
recomputed. Of equally simple plans the fastest counts.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.planner.space import Space
from shardwright.specs import POLICIES

from .branch_and_bound import BranchAndBound
from .open_entries import OpenEntries
from .portfolio import Found, Portfolio, Variant

_AXES = ("pp", "cp", "tp", "ep")
_NOTHING = POLICIES.index("none")

# This limits work, not time, so that repeated runs find the same plan.
_MOST_SOLVED = 6


def simplest(portfolio: Portfolio, tolerance: float) -> Found:
    """Return the simplest plan that takes at most 1 + `tolerance` times as long as the best of a finished `portfolio`.

    For each kind of plan at most a few entries are solved, those with the lowest bounds.
    """
    assert portfolio.best is not None
    best, most = portfolio.best, portfolio.best.solved.step_seconds * (1 + tolerance)
    own = _kinds(best.variant.run.space)[best.solved.entry]
    near = [_near(variant, most, own) for variant in portfolio.variants]
    for kind in sorted({kind for kinds in near for kind in kinds}):
        for variant, kinds in zip(portfolio.variants, near, strict=True):
            for search in _searches(variant.run, kinds.get(kind), most):
                search.run(most_solved=_MOST_SOLVED)
                if search.best is not None:
                    return Found(variant, search.best)
    return best


def _near(variant: Variant, most: float, own: int) -> dict[int, IntArray]:
    """Return by kind the entries that may take at most `most` seconds, of kinds that are not less simple than `own`."""
    run = variant.run
    near = np.flatnonzero(run.entries.chosen & (run.entries.bounds <= most))
    run.entries.sharpen(near)
    kinds = _kinds(run.space)
    near = near[(run.entries.bounds[near] <= most) & (kinds[near] <= own)]
    return {int(kind): near[kinds[near] == kind] for kind in np.unique(kinds[near])}


def _kinds(space: Space) -> IntArray:
    """(N,): a number for each entry; lower is simpler."""
    replicated_shards = (space.column("dp_replicate") > 1) & (space.column("dp_shard") > 1)
    axes = sum(((space.column(name) > 1).astype(np.int64) for name in _AXES), 1 * replicated_shards)
    pipeline = (space.column("pp") > 1).astype(np.int64) + (space.stages_per_rank > 1)
    return np.asarray((axes * 3 + pipeline) * 2 + space.column("offload_optimizer"))


def _searches(run: BranchAndBound, entries: IntArray | None, most: float) -> Iterator[BranchAndBound]:
    """Yield searches over `entries` for plans within `most` seconds: without recompute, then with it."""
    if entries is None:
        return
    among: Array = np.zeros(len(run.space), dtype=bool)
    among[entries] = True
    if _NOTHING in run.solver.allowed and run.solver.given is None:
        solver = replace(run.solver, allowed=[_NOTHING])
        bounds = run.entries.bounds.copy()
        yield BranchAndBound(solver, OpenEntries(solver, bounds, np.isinf(bounds), among), run.times, ceiling=most)
    yield BranchAndBound(run.solver, run.entries.among(among), run.times, ceiling=most)
