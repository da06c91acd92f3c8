"""Schedules that split the backward: the searches of large entries come near the best of all partitions."""

import numpy as np
import pytest

from shardwright.costmodel.tables.rows import rank_bytes
from shardwright.planner.bounds.entry_bounds import lower_bounds
from shardwright.planner.space.stage_sizes import chunk_sizes
from shardwright.planner.stages import split_partition
from shardwright.planner.stages.every_plan import _all_sizes
from shardwright.planner.stages.interleaved import InterleavedSearch
from shardwright.planner.stages.split_partition import best_split_partition
from shardwright.planner.stages.staged_entry import StagedEntry
from shardwright.planner.stages.tables import stage_tables
from shardwright.specs.schedules import ScheduleName
from tests.planner.bounds.test_split_backward import IN_A_V, ONE_STAGE, random_costs

_ENOUGH = 1.002


def best_of_all_partitions(staged: StagedEntry) -> float:
    """The least step of the partitions that fit, without recomputation."""
    one = staged.entry
    sizes = chunk_sizes(staged.ranges.layer_count, one.pp, one.stages_per_rank)
    every = _all_sizes(staged.ranges.layer_count, sizes.fewest.T.reshape(-1), sizes.most.T.reshape(-1))
    counts = np.stack([staged.counts(layers) for layers in every])
    mixes = np.zeros((*counts.shape, one.rows.policies), dtype=np.int64)
    mixes[..., 0] = counts
    held = rank_bytes(one.rows, one.schedule, one.pp, one.microbatches, mixes)
    fits = (held.device <= one.room_bytes).all(axis=1) & (held.host <= one.host_room_bytes).all(axis=1)
    return float(staged.seconds(mixes)[fits].min(initial=np.inf))


@pytest.mark.parametrize("name", ONE_STAGE)
@pytest.mark.parametrize("seed", range(12))
def test_one_stage_on_each_rank(name: ScheduleName, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    costs, ranges = random_costs(seed, name)
    entry, bound = costs.entry(0), float(lower_bounds(costs, ranges, [0])[0])
    monkeypatch.setattr(split_partition, "EVALUATE_ALL", 0)
    found = best_split_partition(stage_tables(entry, ranges, [0]), bound, np.inf)
    best = best_of_all_partitions(StagedEntry(entry, ranges))
    if found is None:
        assert np.isinf(best)
        return
    assert best <= found.step_seconds <= best * _ENOUGH
    assert found.bound_seconds <= best * (1 + 1e-9)


@pytest.mark.parametrize("name", IN_A_V)
@pytest.mark.parametrize("seed", range(12))
def test_two_stages_on_each_rank(name: ScheduleName, seed: int) -> None:
    costs, ranges = random_costs(seed, name)
    entry = costs.entry(0)
    search = InterleavedSearch(entry, ranges, [0])
    found = search.family()
    if found is not None:
        best = best_of_all_partitions(StagedEntry(entry, ranges))
        assert best <= search.improved(found).step_seconds <= best * _ENOUGH


def test_nothing_below_the_limit() -> None:
    costs, ranges = random_costs(1, "zb-h1")
    assert best_split_partition(stage_tables(costs.entry(0), ranges, [0]), 0.0, 1e-6) is None
