"""Bounds that stop at a limit are sharpened beyond it when they are asked for again."""

import numpy as np
import pytest

from shardwright.costmodel.op_times.choice import op_times
from shardwright.planner.bounds.entry_bounds import lower_bounds
from shardwright.planner.branching.open_entries import OpenEntries
from shardwright.planner.space.costs import space_costs
from shardwright.planner.space.enumerate import enumerate_space
from shardwright.planner.stages.solve_entry import EntrySolver
from tests.planner.small_problems import random_problem


@pytest.mark.parametrize("seed", range(12))
def test_a_limit_hides_no_bound(seed: int) -> None:
    model, cluster, training = random_problem(seed)
    space = enumerate_space(model, cluster, training)
    solver = EntrySolver.of(space_costs(space, model, training, op_times(cluster, training)), model)
    sharp = lower_bounds(solver.costs, solver.ranges, solver.allowed)
    if not np.isfinite(sharp).any():
        return
    limit, every = float(np.median(sharp[np.isfinite(sharp)])), np.arange(len(space))
    entries = OpenEntries.of(solver)
    quick = entries.bounds.copy()
    entries.sharpen(every, limit)
    below, expected = sharp < limit * (1 - 1e-4), np.maximum(sharp, quick)
    assert entries.bounds[below] == pytest.approx(expected[below], rel=1e-4)
    assert (entries.bounds[~below] >= limit * (1 - 2e-4)).all()
    entries.sharpen(every)
    assert entries.bounds == pytest.approx(expected, rel=1e-4)
