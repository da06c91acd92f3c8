"""Every partition and every recompute mix of an entry, where they are few. The answer is then exact."""

from functools import cache
from itertools import combinations_with_replacement, product

import numpy as np

from shardwright.base import IntArray
from shardwright.planner.mixes import useful_policies
from shardwright.planner.space import chunk_sizes
from shardwright.specs import runs_by_chunk, splits_backward

from .staged_entry import Batch, StagedEntry, StagedPlan

_EVALUATE_ALL = 3000
_COUNTED_LAYERS = 12
# Passes of a schedule that is walked times plans: about 10 ns each.
_MOST_PASSES = 4_000_000


def is_small(staged: StagedEntry, allowed: list[int]) -> bool:
    """Whether all partitions and mixes are few enough to evaluate."""
    entry = staged.entry
    sizes = chunk_sizes(staged.ranges.layer_count, entry.pp, entry.stages_per_rank, entry.even_stages)
    ways = 1.0
    for placed in range(staged.ranges.layer_count - int(sizes.fewest.sum())):
        ways *= (entry.stages + placed) / (placed + 1)
    policies = len(_useful(staged, allowed))
    most: float = _EVALUATE_ALL
    if splits_backward(entry.schedule) or runs_by_chunk(entry.schedule):
        most = min(most, _MOST_PASSES / (3 * entry.microbatches * entry.stages))
    return bool(ways * policies ** min(staged.ranges.layer_count, _COUNTED_LAYERS) <= most)


def best_of_all(staged: StagedEntry, allowed: list[int]) -> StagedPlan | None:
    """Return the best of all partitions and mixes, or None where none fits. For small entries."""
    entry, batch = staged.entry, Batch()
    sizes = chunk_sizes(staged.ranges.layer_count, entry.pp, entry.stages_per_rank, entry.even_stages)
    policies = _useful(staged, allowed)

    @cache  # partitions share most of their ranks
    def mixes_of(rank: int, held: tuple[int, ...]) -> list[IntArray]:
        counts = np.array(held).reshape(entry.stages_per_rank, -1)
        return _rank_mixes(staged, rank, counts, policies)

    for layers in _all_sizes(staged.ranges.layer_count, sizes.fewest.T.reshape(-1), sizes.most.T.reshape(-1)):
        counts = staged.counts(layers)
        ranks = [mixes_of(rank, tuple(counts[stages].flat)) for rank, stages in enumerate(staged.stages)]
        for choice in product(*ranks):
            batch.add(layers, staged.interleave(list(choice)))
    return staged.best(batch)


def _useful(staged: StagedEntry, allowed: list[int]) -> list[int]:
    """Return the policies that, for some class, no other policy beats in backward, tail, kept and working bytes."""
    found = np.zeros(staged.entry.rows.policies, dtype=bool)
    for rows in staged.priced:
        parts = (rows.backward, rows.last_backward, rows.activation, rows.working, rows.host_activation)
        measures = np.stack([part.layers for part in parts if part is not None])
        found |= useful_policies(measures, allowed).any(axis=0)
    return [int(policy) for policy in np.flatnonzero(found)]


def _rank_mixes(staged: StagedEntry, rank: int, counts: IntArray, policies: list[int]) -> list[IntArray]:
    """Return every mix (chunks, classes, policies) of a rank that fits."""
    width = staged.entry.rows.policies
    per_cell = [_policy_splits(int(count), policies, width) for count in counts.flat]
    mixes = np.stack([np.stack(choice).reshape(*counts.shape, width) for choice in product(*per_cell)])
    return list(mixes[staged.fits(rank, counts, mixes)])


def _all_sizes(layers: int, fewest: IntArray, most: IntArray) -> list[tuple[int, ...]]:
    """Return every way to distribute `layers` over stages that hold from `fewest` (S,) to `most` (S,) each."""
    partial: list[tuple[int, ...]] = [()]
    for stage in range(len(fewest)):
        least_after, most_after = int(fewest[stage + 1 :].sum()), int(most[stage + 1 :].sum())
        partial = [
            (*sizes, size)
            for sizes in partial
            for size in range(int(fewest[stage]), int(most[stage]) + 1)
            if least_after <= layers - sum(sizes) - size <= most_after
        ]
    return partial


def _policy_splits(count: int, allowed: list[int], policies: int) -> list[IntArray]:
    """Return every way to put `count` layers under the allowed policies, as counts (policies,)."""
    ways = combinations_with_replacement(allowed, count)
    return [np.bincount(np.array(way, dtype=np.int64), minlength=policies) for way in ways]
