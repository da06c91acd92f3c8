"""Partitions against every partition."""

import numpy as np
import pytest

from shardwright.planner.space.ranges import layer_ranges
from shardwright.planner.stages.bottleneck import smallest_largest
from shardwright.planner.stages.critical_paths import CriticalPaths
from shardwright.planner.stages.labels import LabelSearch
from shardwright.planner.stages.partition import (
    _improved,
    best_of,
    best_partition,
    evaluate,
    stage_bounds,
)
from shardwright.planner.stages.tables import StageTables
from tests.planner.pipeline_tables import fitting_partitions, random_tables
from tests.planner.small_problems import tiny_model


def _paths(tables: StageTables) -> CriticalPaths:
    return CriticalPaths.of(tables.entry.schedule, 4, 1, tables.entry.microbatches)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("schedule", ["1f1b", "gpipe"])
def test_best_of_all(seed: int, schedule: str) -> None:
    tables = random_tables(seed, schedule=schedule)
    fitting = fitting_partitions(tables)
    found = best_partition(tables, np.inf, _paths(tables))
    if not len(fitting):
        assert found is None
        return
    assert found is not None
    assert found.step_seconds == pytest.approx(evaluate(tables, fitting).min(), rel=1e-9)
    assert found.bound_seconds <= found.step_seconds


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("schedule", ["1f1b", "gpipe"])
def test_best_of_some_hundreds(seed: int, schedule: str) -> None:
    """More than are evaluated at once: ranked, and the rest ruled out."""
    tables = random_tables(seed, layers=16, schedule=schedule)
    fitting = fitting_partitions(tables)
    found = best_partition(tables, np.inf, _paths(tables))
    if found is None:
        assert not len(fitting)
        return
    best = evaluate(tables, fitting).min()
    assert found.step_seconds == pytest.approx(best, rel=1e-9)
    assert found.bound_seconds <= best * (1 + 1e-9)


@pytest.mark.parametrize("seed", [0, 1, 2, 4, 6])
def test_moves_of_single_layers_shorten_as_much_as_all_of_them_would(seed: int) -> None:
    """Those that the bounds of the two changed stages rule out are never the best."""
    tables = random_tables(seed, layers=16)
    fitting = fitting_partitions(tables)
    slowest = best_of(tables, fitting[[evaluate(tables, fitting).argmax()]], 0.0)
    bounds, none = (np.where(tables.feasible, each, np.inf) for each in (stage_bounds(tables), 0.0))
    found = _improved(tables, bounds, slowest)
    assert found == _improved(tables, none, slowest)
    assert found.step_seconds < slowest.step_seconds


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("schedule", ["1f1b", "gpipe"])
def test_bounds_are_below(seed: int, schedule: str) -> None:
    """The labels' bound is below every partition that fits, a stage's bound below every one that has that stage."""
    tables = random_tables(seed, schedule=schedule)
    fitting = fitting_partitions(tables)
    if len(fitting):
        seconds = evaluate(tables, fitting)
        assert LabelSearch(tables, tables.feasible).run().bound_seconds <= seconds.min() * (1 + 1e-9)
        stages = stage_bounds(tables)[np.arange(4), tables.ranges.kinds(fitting)]
        assert (stages <= seconds[:, None] * (1 + 1e-9)).all()


@pytest.mark.parametrize("seed", range(12))
def test_ranking_is_close_where_partitions_are_too_many_to_try(seed: int) -> None:
    tables = random_tables(seed, layers=40)
    found = best_partition(tables, np.inf, _paths(tables))
    fitting = fitting_partitions(tables)
    if found is not None:
        best = evaluate(tables, fitting).min()
        assert found.bound_seconds <= best * (1 + 1e-9)
        assert found.step_seconds <= best * 1.002


def test_nothing_below_the_limit() -> None:
    tables = random_tables(3)
    found = best_partition(tables, np.inf, _paths(tables))
    assert found is not None
    lower = best_partition(tables, found.step_seconds * 0.5, _paths(tables))
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
