"""Pairs of plans of one job: their ratios, and what is no pair."""

import math

import pytest

from shardwright.calibration.plan_pairs import Run, pairs_of, pairs_table
from shardwright.specs.mesh import Mesh
from shardwright.specs.plan import LayerRun, Plan, Stage


def _plan(micro_batch: int, tp: int = 1) -> Plan:
    stages = (Stage(layers=(LayerRun(count=2),)),)
    return Plan(mesh=Mesh(tp=tp), micro_batch=micro_batch, microbatches=8 // micro_batch, stages=stages)


_RUNS = [
    Run("a", _plan(1), 2.0, 2.2),
    Run("a", _plan(2), 1.0, 1.1),
    Run("a", _plan(2), 2.0, 1.1),
    Run("a", _plan(1, tp=2), 2.0, 3.3),  # as long as the first
    Run("b", _plan(4), 9.0, 1.0),  # alone
]


def test_pairs_are_of_one_job_and_of_plans_that_differ_in_time() -> None:
    same, other = pairs_of(_RUNS)
    assert (same.same_mesh, other.same_mesh) == (True, False)
    assert same.measured == pytest.approx(math.log(2.0 / 1.5))  # the median of two runs
    assert same.predicted == pytest.approx(math.log(2))
    assert same.error == pytest.approx(math.log(1.5))
    assert other.error == pytest.approx(math.log(3 * 1.5 / 2))
    assert same.order_is_right
    assert other.order_is_right


def test_a_wrong_order_counts() -> None:
    """With the predictions of the first two plans exchanged."""
    wrong = [_RUNS[0]._replace(predicted_seconds=1.0), *_RUNS[1:3]]
    (pair,) = pairs_of(wrong)
    assert not pair.order_is_right
    assert pairs_table([pair]).row_count == 1
