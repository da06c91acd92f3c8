"""The expected slowest of many ranks, against the exact order statistics of the normal distribution."""

import numpy as np
import pytest

from shardwright.costmodel.tables.straggler import largest_of

# expected largest of n standard normal variables (Harter 1961, Biometrika 48, Table 1)
EXACT = {2: 0.56419, 3: 0.84628, 10: 1.53875, 100: 2.50759, 1000: 3.24144}


@pytest.mark.parametrize(("ranks", "expected"), EXACT.items())
def test_near_the_exact_order_statistic(ranks: int, expected: float) -> None:
    assert largest_of(ranks) == pytest.approx(expected, rel=0.05)


def test_one_rank_waits_for_no_other() -> None:
    assert largest_of(1) == 0


def test_more_ranks_wait_longer() -> None:
    assert (np.diff(largest_of(np.arange(1, 200))) > 0).all()


def test_the_shape_is_that_of_the_ranks() -> None:
    ranks = np.array([[8, 1, 64], [64, 8, 8]])
    found = largest_of(ranks)
    assert found.shape == (2, 3)
    assert found.tolist() == [[float(largest_of(n)) for n in row] for row in ranks.tolist()]
    assert largest_of(64).shape == ()
    assert largest_of(np.zeros((0, 4))).shape == (0, 4)
