"""Layers over stages."""

import numpy as np
from hypothesis import given, strategies

from shardwright.costmodel.even.stages import alike, even_row_counts
from shardwright.specs.schedules import even_stages


@given(layers=strategies.integers(1, 200), stages=strategies.integers(1, 64))
def test_even_stages_hold_all_layers_and_differ_by_one_at_most(layers: int, stages: int) -> None:
    counts = even_stages(layers, stages)
    assert sum(counts) == layers
    assert len(counts) == stages
    assert max(counts) - min(counts) <= 1


def test_the_ends_get_the_fewer_layers() -> None:
    assert even_stages(126, 8) == [15, 16, 16, 16, 16, 16, 16, 15]
    assert even_stages(32, 3) == [11, 11, 10]


def test_rows_of_even_stages() -> None:
    """5 like layers on 3 stages: 2, 2 and 1; embedding on the first, head on the last."""
    counts = even_row_counts([0] * 5, 3)
    assert counts.tolist() == [[2, 1, 0], [2, 0, 0], [1, 0, 1]]


def test_rows_of_even_stages_of_two_layer_classes() -> None:
    """A first layer of one class, then three of another, on 2 stages."""
    assert even_row_counts([0, 1, 1, 1], 2).tolist() == [[1, 1, 1, 0], [0, 2, 0, 1]]


def test_runs_of_like_neighbours() -> None:
    assert alike(np.array([[1], [2], [2], [1]])) == [(0, 0), (1, 2), (3, 3)]
