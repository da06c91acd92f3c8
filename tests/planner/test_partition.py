"""Partitions against every partition."""

from itertools import combinations

import numpy as np
import pytest

from shardwright.costmodel.catalog_times import CatalogTimes
from shardwright.costmodel.training import TrainingSpec
from shardwright.planner import Fixed
from shardwright.planner.bottleneck import smallest_largest
from shardwright.planner.labels import LabelSearch
from shardwright.planner.layer_ranges import LayerRanges, layer_ranges
from shardwright.planner.partition import best_partition, evaluate, stage_bounds
from shardwright.planner.space import enumerate_space
from shardwright.planner.space_costs import space_costs
from shardwright.planner.stage_tables import StageTables, stage_tables
from tests.planner.small_problems import tiny_cluster, tiny_model


def _tables(seed: int, *, layers: int = 9, schedule: str = "1f1b") -> StageTables:
    chance = np.random.default_rng(seed)
    model = tiny_model(layers=layers, classes=1 + seed % 2, hidden=1024, vocab=20000)
    cluster = tiny_cluster(
        devices=4,
        devices_per_node=1 + seed % 2,
        memory_bytes=float(chance.uniform(2.2e9, 5e9)),
        nic_bytes_per_s=float(10 ** chance.uniform(8.5, 10.5)),
    )
    training = TrainingSpec(seq_len=1024, global_batch=int(chance.choice([1, 2, 3, 4, 8, 32])))
    fixed = Fixed.model_validate({"pp": 4, "micro_batch": 1, "schedule": schedule, "offload_optimizer": 0})
    costs = space_costs(
        enumerate_space(model, cluster, training, fixed), model, cluster, training, CatalogTimes(cluster, training)
    )
    return stage_tables(costs.entry(0), layer_ranges(model), [0, 1, 2])


def _all_partitions(ranges: LayerRanges, stages: int) -> np.ndarray:
    cuts = np.array(list(combinations(range(1, ranges.layer_count), stages - 1)))
    edges = np.concatenate([np.zeros((len(cuts), 1), int), cuts, np.full((len(cuts), 1), ranges.layer_count)], axis=1)
    return np.diff(edges, axis=1)


def _fitting(tables: StageTables) -> np.ndarray:
    every = _all_partitions(tables.ranges, tables.entry.pp)
    return every[tables.feasible[np.arange(tables.entry.pp), tables.ranges.kinds(every)].all(axis=1)]


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("schedule", ["1f1b", "gpipe"])
def test_best_of_all(seed: int, schedule: str) -> None:
    tables = _tables(seed, schedule=schedule)
    fitting = _fitting(tables)
    found = best_partition(tables, np.inf)
    if not len(fitting):
        assert found is None
        return
    assert found is not None
    assert found.step_seconds == pytest.approx(evaluate(tables, fitting).min(), rel=1e-9)
    assert found.bound_seconds <= found.step_seconds


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("schedule", ["1f1b", "gpipe"])
def test_bounds_are_below(seed: int, schedule: str) -> None:
    """The labels' bound is below every partition that fits, a stage's bound below every one that has that stage."""
    tables = _tables(seed, schedule=schedule)
    fitting = _fitting(tables)
    if len(fitting):
        seconds = evaluate(tables, fitting)
        assert LabelSearch(tables, tables.feasible).run().bound_seconds <= seconds.min() * (1 + 1e-9)
        stages = stage_bounds(tables)[np.arange(4), tables.ranges.kinds(fitting)]
        assert (stages <= seconds[:, None] * (1 + 1e-9)).all()


@pytest.mark.parametrize("seed", range(12))
def test_ranking_is_close_where_partitions_are_too_many_to_try(seed: int) -> None:
    tables = _tables(seed, layers=40)
    found = best_partition(tables, np.inf)
    fitting = _fitting(tables)
    if found is not None:
        best = evaluate(tables, fitting).min()
        assert found.bound_seconds <= best * (1 + 1e-9)
        assert found.step_seconds <= best * 1.002


def test_nothing_below_the_limit() -> None:
    tables = _tables(3)
    found = best_partition(tables, np.inf)
    assert found is not None
    lower = best_partition(tables, found.step_seconds * 0.5)
    assert lower is None or lower.step_seconds >= found.step_seconds * 0.5


def test_smallest_largest() -> None:
    ranges = layer_ranges(tiny_model(layers=5))
    values = np.array([[1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 4.0, 6.0, 8.0, 10.0]])
    assert smallest_largest(values, ranges) == (4.0, (3, 2))


def test_layer_ranges_of_two_classes() -> None:
    ranges = layer_ranges(tiny_model(layers=4, classes=2))
    assert ranges.counts[ranges.kind_of[0, 3]].tolist() == [2, 1]
    assert ranges.counts[ranges.kind_of[1, 4]].tolist() == [1, 2]
    assert ranges.kind_of[0, 2] == ranges.kind_of[1, 3]  # one of each, whichever comes first
    assert ranges.kinds(np.array([1, 3])).tolist() == [ranges.kind_of[0, 1], ranges.kind_of[1, 4]]
