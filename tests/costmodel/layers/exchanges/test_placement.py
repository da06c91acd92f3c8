"""What the busiest rank gets of uneven tokens: with experts on their ranks, and with hot ones on all."""

from itertools import pairwise

import numpy as np
import pytest

from shardwright.costmodel.layers.exchanges.placement import _shares, placed


@pytest.mark.parametrize("imbalance", [1.0, 1.5, 3.0, 7.0])
def test_loads_make_the_imbalance_that_is_given(imbalance: float) -> None:
    """64 experts on 8 ranks: the eight hottest lie on one."""
    shares = _shares(64, 8, imbalance)
    assert shares.sum() == pytest.approx(1)
    assert (np.diff(shares) <= 0).all()
    assert 8 * shares[:8].sum() == pytest.approx(imbalance)
    assert placed(64, 8, imbalance, 0) == (imbalance, imbalance)


def test_even_loads_by_hand() -> None:
    """One of four equal experts on both ranks: a quarter of the tokens stays where it is."""
    assert placed(4, 2, 1.0, 1) == (1.0, 0.75)
    assert placed(4, 2, 1.0, 4) == (1.0, 0.0)


def test_uneven_loads_by_hand() -> None:
    """Two ranks, one expert each, of which the first gets 3/4 of the tokens: 1.5 times the mean. On both ranks it leaves the second, whose quarter is
    on one rank: that computes 3/4 of a mean of the first and 2/4 of its own, all of which is sent."""
    assert placed(2, 2, 1.5, 0) == (1.5, 1.5)
    assert placed(2, 2, 1.5, 1) == pytest.approx((0.75 + 0.5, 0.5))
    assert placed(2, 2, 1.5, 2) == pytest.approx((1.0, 0.0))


def test_more_hot_experts_never_leave_more_to_send() -> None:
    found = [placed(64, 16, 6.0, hot) for hot in range(65)]
    assert all(more.sent <= less.sent for less, more in pairwise(found))
    assert max(one.computed for one in found) == 6
