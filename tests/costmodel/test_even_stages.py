"""Layers over stages."""

from hypothesis import given, strategies

from shardwright.costmodel.even_stages import even_stages


@given(layers=strategies.integers(1, 200), stages=strategies.integers(1, 64))
def test_even_stages_hold_all_layers_and_differ_by_one_at_most(layers: int, stages: int) -> None:
    counts = even_stages(layers, stages)
    assert sum(counts) == layers
    assert len(counts) == stages
    assert max(counts) - min(counts) <= 1


def test_the_ends_get_the_fewer_layers() -> None:
    assert even_stages(126, 8) == [15, 16, 16, 16, 16, 16, 16, 15]
    assert even_stages(32, 3) == [11, 11, 10]
