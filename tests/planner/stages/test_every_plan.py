"""Every mix of a few layers over many strategies is listed once, without trying every count of each."""

from math import comb

import numpy as np

from shardwright.planner.stages.every_plan import _policy_splits


def test_two_layers_over_the_strategies_of_offload() -> None:
    """27 strategies: three of recomputation times nine shares on the host. Trying every count of each would take 3^27."""
    allowed = list(range(1, 28))
    found = np.array(_policy_splits(2, allowed, 28))
    assert found.shape == (comb(28, 2), 28)
    assert (found.sum(axis=1) == 2).all()
    assert (found[:, 0] == 0).all()
    assert len(np.unique(found, axis=0)) == len(found)
    assert [mix.tolist() for mix in _policy_splits(0, [0, 2], 3)] == [[0, 0, 0]]
