"""Published plans beside the planner's: which are faster, and why the space does not hold them."""

from dataclasses import replace

import pytest

from shardwright.calibration.published_plans import compared
from shardwright.calibration.tables import used_rows
from shardwright.catalog import standard_node
from shardwright.validation.rows import MeasuredRun, measured_run


@pytest.fixture(scope="module")
def run() -> MeasuredRun:
    """A run of one server that states its whole plan."""
    for row in used_rows():
        found = measured_run(row, standard_node)
        if isinstance(found, MeasuredRun) and not found.unknown and found.cluster.devices == 8:
            return found
    raise AssertionError("no such row")


def test_the_planner_is_no_slower(run: MeasuredRun) -> None:
    found = compared(run, {})
    assert found is not None
    assert found.ratio <= 1 + 1e-6
    assert found.outside == ""


def test_a_faster_published_plan_has_a_reason(run: MeasuredRun) -> None:
    slow: dict[object, float] = {(run.model, run.cluster.model_dump_json(), run.training): float("inf")}
    found = compared(run, slow)
    assert found is not None
    assert found.outside == "the space holds it but for its stages"


def test_a_plan_that_does_not_fit_is_not_compared(run: MeasuredRun) -> None:
    group = run.cluster.node
    small = group.model_copy(update={"device": group.device.model_copy(update={"memory_bytes": 1e9})})
    assert compared(replace(run, cluster=run.cluster.model_copy(update={"groups": (small,)})), {}) is None
