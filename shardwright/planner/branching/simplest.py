"""The simplest of the plans whose steps the prediction cannot tell apart.

Simpler is, in this order: an exact reduction of gradients; fewer axes besides data parallelism, where each kind of state off the device counts as two, and ep, which
spreads experts over ranks that are there, as none; less off the device; no pipeline, then one stage on each rank, then interleaved stages, fewer on a rank before more, then a schedule that
splits the backward; embedding and head on one rank each; the training spec as given, where the planner may change it, and the
usual order of the axes; nothing recomputed. Of equally simple plans the fastest counts.
"""

from dataclasses import replace

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.planner.space import Space, changed
from shardwright.specs import POLICIES

from .branch_and_bound import BranchAndBound
from .open_entries import SHARPENED_AT_ONCE, OpenEntries
from .portfolio import OFFLOADS, Found, Portfolio, Variant

_AXES = ("pp", "cp", "tp")
_NOTHING = POLICIES.index("none")
# What is off the device depends on the host's memory, cores and links, which are assumed where nobody stated them.
_AXES_OF_AN_OFFLOAD = 2

# This limits work, not time, so that repeated runs find the same plan.
_MOST_SOLVED = 6
# A schedule that splits the backward counts as this many stages on a rank: more than any model has layers.
_SPLITS = 10_000
_ROUNDING = 1e-9


def simplest(
    portfolio: Portfolio, tolerance: float, *, of_other_axes: float | None = None, most_looked_at: int | None = None
) -> Found:
    """Return the simplest plan that takes at most 1 + `tolerance` times as long as the best of a finished `portfolio`, or
    1 + `of_other_axes` times as long if it has fewer axes or, with as many, no pipeline where the best has one.

    For each kind of plan at most a few entries are solved, those with the lowest bounds. With `most_looked_at` only so many
    entries are looked at in all, the simplest kinds and the lowest bounds first.
    """
    assert portfolio.best is not None
    best, shares = portfolio.best, (tolerance, tolerance if of_other_axes is None else of_other_axes)
    own = int(_kinds(best.variant.run.space)[best.solved.entry])
    all_near = best.solved.step_seconds * (1 + max(shares))
    near = [_near(variant.run, all_near, own) for variant in portfolio.every]
    for variant, kinds in zip(portfolio.every, near, strict=True):
        every = np.concatenate([np.zeros(0, dtype=np.int64), *kinds.values()])
        if len(every) <= SHARPENED_AT_ONCE:
            variant.run.entries.sharpen(every, all_near * (1 + _ROUNDING))
    for kind in sorted({kind for kinds in near for kind in kinds}):
        most = best.solved.step_seconds * (1 + shares[_axes(kind) < _axes(own)])
        open_entries: dict[int, list[tuple[Variant, IntArray]]] = {}
        for variant, kinds in zip(portfolio.every, near, strict=True):
            run, alike = variant.run, kinds.get(kind, np.zeros(0, dtype=np.int64))
            if most_looked_at is not None:
                alike = alike[np.argsort(run.entries.bounds[alike], kind="stable")][:most_looked_at]
                most_looked_at -= len(alike)
            run.entries.sharpen(alike, most * (1 + _ROUNDING))
            alike = np.sort(alike[run.entries.bounds[alike] <= most])
            if len(alike):
                open_entries.setdefault(_changes(portfolio, variant), []).append((variant, alike))
        for changes in sorted(open_entries):
            for recompute in (False, True):
                found = _fastest(open_entries[changes], most, recompute=recompute)
                if found is not None:
                    return found
    return best


def _near(run: BranchAndBound, most: float, own: int) -> dict[int, IntArray]:
    """Return by kind the entries that may take at most `most` seconds, of kinds that are not less simple than `own`."""
    kinds, near = _kinds(run.space), run.entries.within(most)
    near = near[kinds[near] <= own]
    return {int(kind): near[kinds[near] == kind] for kind in np.unique(kinds[near])}


def complexity(portfolio: Portfolio, found: Found) -> tuple[int, int, bool]:
    """Return a plan's place in the order of simplicity: its kind, how many changes its training spec has, and whether it recomputes anything or has
    activations on the host."""
    recomputes = bool(np.delete(found.solved.mix.sum(axis=(0, 1)), _NOTHING).any())
    return int(_kinds(found.variant.run.space)[found.solved.entry]), _changes(portfolio, found.variant), recomputes


def _kinds(space: Space) -> IntArray:
    """(N,): a number for each entry; lower is simpler. `_axes` reads it."""
    replicated_shards = (space.column("dp_replicate") > 1) & (space.column("dp_shard") > 1)
    axes = sum(((space.column(name) > 1).astype(np.int64) for name in _AXES), 1 * replicated_shards)
    stages = np.where(space.column("pp") > 1, space.stages_per_rank, 0)
    pipeline = np.where(space.splits, _SPLITS, np.minimum(stages, _SPLITS - 1))
    offloads = sum((space.column(name) > 0).astype(np.int64) for name in OFFLOADS)
    if space.fixed.approximate:  # which costs quality: more than any axis
        most = len(_AXES) + 2 + _AXES_OF_AN_OFFLOAD * len(OFFLOADS)
        axes = axes + most * space.base.approximates[space.base_index]
    placed = (axes + _AXES_OF_AN_OFFLOAD * offloads) * (len(OFFLOADS) + 1) + offloads
    return np.asarray((placed * (_SPLITS + 1) + pipeline) * 2 + space.spread)


def _axes(kind: int) -> tuple[int, bool]:
    """The place of a kind by its axes and offloads, and whether it has a pipeline."""
    placed, pipeline = divmod(kind // 2, _SPLITS + 1)
    return placed, pipeline > 0


def _changes(portfolio: Portfolio, variant: Variant) -> int:
    """How many things a variant has otherwise than given, another order of the axes among them."""
    return len(changed(variant.training, portfolio.given)) + bool(variant.run.space.base.order.any())


def _fastest(of_variants: list[tuple[Variant, IntArray]], most: float, *, recompute: bool) -> Found | None:
    """Return the fastest plan within `most` seconds among some entries of each variant: without recompute, or with any."""
    best: Found | None = None
    for variant, entries in of_variants:
        search = _search(variant.run, entries, most if best is None else best.solved.step_seconds, recompute=recompute)
        if search is not None:
            search.run(most_solved=_MOST_SOLVED)
            best = best if search.best is None else Found(variant, search.best)
    return best


def _search(run: BranchAndBound, entries: IntArray, most: float, *, recompute: bool) -> BranchAndBound | None:
    """Return a search over `entries` for plans within `most` seconds; None without `recompute` where some is asked for."""
    among: Array = np.zeros(len(run.space), dtype=bool)
    among[entries] = True
    if recompute:
        return BranchAndBound(run.solver, run.entries.among(among), run.times, ceiling=most)
    if _NOTHING not in run.solver.allowed or run.solver.given is not None:
        return None
    solver = replace(run.solver, allowed=[_NOTHING])
    bounds, quick = run.entries.bounds.copy(), run.entries.quick.copy()
    entries_alone = OpenEntries(solver, bounds, quick, np.isinf(bounds), among)
    return BranchAndBound(solver, entries_alone, run.times, ceiling=most)
