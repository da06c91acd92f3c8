"""Layers of each stage by the rule of the software that ran."""

import pytest

from shardwright.validation.rows.stage_sizes import by_cost, stage_sizes
from tests.validation.made_up_rows import row


def test_even_where_nothing_else_is_known() -> None:
    assert stage_sizes(row(), 40, 3) == [13, 14, 13]


def test_internevo_leaves_the_rest_to_the_last_stages() -> None:
    assert stage_sizes(row(framework="InternEvo"), 32, 5) == [6, 6, 6, 7, 7]


def test_nanotron_counts_the_head() -> None:
    """28 layers of 113 million weights and a head of 403 million on 2 stages: the 16th layer crosses the half."""
    one = row(framework="nanotron", hidden=3072, ffn_hidden=8192, vocab=131072)
    assert stage_sizes(one, 28, 2) == [16, 12]


@pytest.mark.parametrize(
    ("layer_cost", "head_cost", "layers", "stages", "sizes"),
    [
        (1.0, 0.0, 8, 4, [3, 2, 2, 1]),  # a block that only reaches a stage's share does not end it
        (1.0, 1.5, 8, 2, [5, 3]),
    ],
)
def test_the_block_that_crosses_a_share_stays(
    layer_cost: float, head_cost: float, layers: int, stages: int, sizes: list[int]
) -> None:
    assert by_cost(layer_cost, head_cost, layers, stages) == sizes


def test_even_where_the_head_alone_would_fill_a_stage() -> None:
    one = row(framework="nanotron", hidden=64, ffn_hidden=64, vocab=10**6)
    assert stage_sizes(one, 4, 2) == [2, 2]
