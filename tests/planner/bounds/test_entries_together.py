"""Entries are bounded together in arrays: a bound does not depend on what stands beside its entry."""

import numpy as np
import pytest

from shardwright.costmodel.op_times import op_times
from shardwright.planner.bounds import lower_bounds
from shardwright.planner.space import enumerate_space, space_costs
from shardwright.planner.stages import EntrySolver
from shardwright.specs import TrainingSpec
from tests.planner.small_problems import tiny_cluster, tiny_model


@pytest.mark.parametrize(("layers", "devices", "classes"), [(12, 6, 1), (12, 6, 2), (10, 6, 1), (28, 6, 1)])
def test_a_bound_is_that_of_its_entry_alone(layers: int, devices: int, classes: int) -> None:
    """Up to 6 stages on a rank of two are filled up to 8, beside pipelines of three with one."""
    model, cluster = tiny_model(layers=layers, classes=classes), tiny_cluster(devices=devices, memory_bytes=1.5e9)
    training = TrainingSpec(seq_len=1024, global_batch=24)
    space = enumerate_space(model, cluster, training)
    solver = EntrySolver.of(space_costs(space, model, training, op_times(cluster, training)), model)
    assert {2, 3} <= set(space.base.pp.tolist())
    together = lower_bounds(solver.costs, solver.ranges, solver.allowed)
    some = np.arange(0, len(space), max(1, len(space) // 150))
    alone = [float(lower_bounds(solver.costs, solver.ranges, solver.allowed, np.array([entry]))[0]) for entry in some]
    assert together[some] == pytest.approx(alone, rel=1e-4)
