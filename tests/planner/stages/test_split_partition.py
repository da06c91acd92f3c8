"""Schedules that split the backward: the searches of large entries come near the best of all partitions."""

from itertools import combinations

import numpy as np
import pytest

from shardwright.planner.bounds.entry_bounds import lower_bounds
from shardwright.planner.space.costs import EntryCosts
from shardwright.planner.space.stage_sizes import near_even_sizes
from shardwright.planner.stages import split_partition
from shardwright.planner.stages.critical_paths import CriticalPaths
from shardwright.planner.stages.near_even import NearEven
from shardwright.planner.stages.split_partition import best_split_partition
from shardwright.planner.stages.staged_entry import StagedEntry
from shardwright.planner.stages.tables import stage_tables
from shardwright.specs.schedules import ScheduleName
from tests.planner.bounds.test_split_backward import IN_A_V, ONE_STAGE, random_costs

_ENOUGH = 1.002


def _paths_of(entry: EntryCosts) -> CriticalPaths:
    return CriticalPaths.of(entry.schedule, entry.pp, entry.stages_per_rank, entry.microbatches)


def best_of_all_partitions(staged: StagedEntry) -> float:
    """The least step of the partitions that are searched and fit, without recomputation."""
    one, layers = staged.entry, staged.ranges.layer_count
    if one.stages_per_rank > 1:
        every = near_even_sizes(layers, one.pp, one.stages_per_rank)
    else:
        cuts = np.array(list(combinations(range(1, layers), one.pp - 1)))
        every = np.diff(cuts, prepend=0, append=layers, axis=1)
    counts = staged.ranges.held(every)
    mixes = np.zeros((*counts.shape, one.rows.policies), dtype=np.int64)
    mixes[..., 0] = counts
    fits = staged.ranks_fit(mixes).all(axis=1)
    return float(staged.seconds(mixes)[fits].min(initial=np.inf))


@pytest.mark.parametrize("name", ONE_STAGE)
@pytest.mark.parametrize("seed", range(12))
def test_one_stage_on_each_rank(name: ScheduleName, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    costs, ranges = random_costs(seed, name)
    entry, bound = costs.entry(0), float(lower_bounds(costs, ranges, [0])[0])
    monkeypatch.setattr(split_partition, "EVALUATE_ALL", 0)
    found = best_split_partition(stage_tables(entry, ranges, [0]), bound, np.inf, _paths_of(entry))
    best = best_of_all_partitions(StagedEntry(entry, ranges))
    if found is None:
        assert np.isinf(best)
        return
    assert best <= found.step_seconds <= best * _ENOUGH
    assert best * (1 - 1e-3) <= found.bound_seconds <= best * (1 + 1e-9)


@pytest.mark.parametrize("name", IN_A_V)
@pytest.mark.parametrize("seed", range(12))
def test_two_stages_on_each_rank(name: ScheduleName, seed: int) -> None:
    costs, ranges = random_costs(seed, name)
    entry = costs.entry(0)
    found, bound = NearEven(entry, ranges, [0], _paths_of(entry)).best(np.inf)
    if found is not None:
        best = best_of_all_partitions(StagedEntry(entry, ranges))
        assert best <= found.step_seconds <= best * _ENOUGH
        assert bound <= best * (1 + 1e-9)


def test_nothing_below_the_limit() -> None:
    costs, ranges = random_costs(1, "zb-h1")
    assert best_split_partition(stage_tables(costs.entry(0), ranges, [0]), 0.0, 1e-6, _paths_of(costs.entry(0))) is None
