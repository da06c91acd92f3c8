"""A measurement of a plan is held against its own ranks."""

import pytest

from shardwright.base import units as readable
from shardwright.reports.plan.measured import measured_lines
from shardwright.specs.mesh import Mesh, MeshOrder
from shardwright.specs.plan import LayerRun, Plan, Stage
from tests.reports.pages.test_report import CLUSTER, MODEL, TRAINING, measurement, plan_of
from tests.validation.fake_costs import estimate_plan


@pytest.mark.parametrize(("order", "fullest"), [("tp-cp-dp-pp", [11e9, 13e9]), ("tp-cp-pp-dp", [12e9, 13e9])])
def test_memory_is_that_of_a_stages_own_ranks(order: MeshOrder, fullest: list[float]) -> None:
    """Rank r of 4 has 10 + r GB; a stage's ranks are 0, 1 and 2, 3, or with the pipeline inside data parallelism 0, 2 and 1, 3."""
    stage = Stage(layers=(LayerRun(count=1),))
    plan = Plan(
        mesh=Mesh(pp=2, dp_replicate=2, order=order),
        micro_batch=1,
        microbatches=2,
        schedule="1f1b",
        stages=(stage,) * 2,
    )
    estimate = estimate_plan(MODEL, CLUSTER, TRAINING, plan_of())
    lines = measured_lines(plan, estimate.model_copy(update={"memory": estimate.memory[:2]}), measurement(4))
    shown = [line.measured for line in lines if line.what.startswith("peak memory")]
    assert shown == [f"{readable.size(size)} allocated" for size in fullest]
