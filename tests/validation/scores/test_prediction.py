"""How what a row leaves unknown is chosen."""

import pytest

from shardwright.base.errors import InfeasibleError, SpecError
from shardwright.catalog.devices import standard_node as catalog_node
from shardwright.costmodel.evaluate import estimate_plan as estimate_by_catalog
from shardwright.costmodel.prediction import fastest
from shardwright.planner.space.fixed import Fixed
from shardwright.specs.cluster import ClusterSpec
from shardwright.specs.estimate import Estimate
from shardwright.specs.model.model import ModelSpec
from shardwright.specs.plan import Plan
from shardwright.specs.training import TrainingSpec
from shardwright.validation.rows.measured_run import MeasuredRun, measured_run
from shardwright.validation.scores.prediction import planners_choice, predict_run
from tests.validation.fake_costs import estimate_plan
from tests.validation.made_up_rows import row, run


def _never(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed) -> Plan:
    raise AssertionError("a complete row has nothing to search")


def _nothing_fits(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed) -> Plan:
    raise InfeasibleError("no plan fits")


def _cannot_keep(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed) -> Plan:
    raise SpecError("not searched")


def test_a_complete_row_is_not_searched() -> None:
    given = run()
    found = predict_run(given, estimate_plan, _never)
    assert found.plan == given.plans[0]
    assert found.assumptions == ()


def test_the_fastest_of_the_searches_stands() -> None:
    given = run(zero_or_fsdp=None, framework="Megatron-LM", micro_batch=None)
    by_stage = {0: 1, 1: 2}  # the fake's step is longer with the larger micro batch, so ZeRO-0 is the faster

    def choose(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed) -> Plan:
        assert fixed.zero_stage is not None
        micro = by_stage[fixed.zero_stage]
        return next(p for p in given.plans if (p.zero_stage, p.micro_batch) == (fixed.zero_stage, micro))

    found = predict_run(given, estimate_plan, choose)
    assert (found.plan.zero_stage, found.plan.micro_batch) == (0, 1)
    assert found.assumptions == ("ZeRO stage: chosen by the planner", "micro batch: chosen by the planner")


@pytest.mark.parametrize(("slower_by", "chosen"), [(0.005, 1), (0.02, 0)])
def test_a_tie_in_time_goes_to_the_plan_that_leaves_more_memory(slower_by: float, chosen: int) -> None:
    given = run(zero_or_fsdp=None, framework="Megatron-LM")

    def choose(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed) -> Plan:
        return next(plan for plan in given.plans if plan.zero_stage == fixed.zero_stage)

    def estimate(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, plan: Plan) -> Estimate:
        """ZeRO-1 takes `slower_by` longer and holds a part less."""
        whole = estimate_plan(model, cluster, training, plan)
        if plan.zero_stage == 0:
            return whole
        step = whole.step.model_copy(update={"data_parallel": slower_by * whole.step_seconds})
        memory = tuple(part.model_copy(update={"activations": 0.0}) for part in whole.memory)
        return whole.model_copy(update={"step": step, "memory": memory})

    assert predict_run(given, estimate, choose).plan.zero_stage == chosen


def test_where_nothing_fits_the_least_memory_stands_for_the_run() -> None:
    # 13B parameters with 16 bytes each on one device: the fake says 208 GB of 80
    given = run(zero_or_fsdp="0", micro_batch=None, recompute=None)
    found = predict_run(given, estimate_plan, _nothing_fits)
    assert found.too_large is not None
    assert (found.plan.micro_batch, found.plan.stages[0].layers[0].recompute) == (1, "full")
    assert found.assumptions == (
        "micro batch: the least memory, as nothing is predicted to fit",
        "recompute: the least memory, as nothing is predicted to fit",
    )


def test_what_the_planner_cannot_keep_is_the_fastest_even_plan() -> None:
    given = run(micro_batch=None)
    found = predict_run(given, estimate_plan, _cannot_keep)
    assert found.plan.micro_batch == 1
    assert found.assumptions == ("micro batch: the fastest even plan",)


def test_the_planner_keeps_what_a_row_states() -> None:
    """The real planner, on a pipeline whose fullest stage it would rather relieve: stages stay even, as Megatron's are."""
    stated = row(
        framework="Megatron-LM", tp=2, pp=4, dp=8, sp=False, zero_or_fsdp=None, micro_batch=None, recompute="full"
    )
    given = measured_run(stated, catalog_node)
    assert isinstance(given, MeasuredRun)
    found = predict_run(given, estimate_by_catalog, planners_choice)
    plan = found.plan
    assert (plan.mesh.tp, plan.mesh.pp, plan.mesh.dp) == (2, 4, 8)
    assert len({stage.layer_count for stage in plan.stages}) == 1
    assert {run.recompute for stage in plan.stages for run in stage.layers} == {"full"}
    assert not plan.sequence_parallel
    assert found.too_large is None
    tried = fastest(given.model, given.cluster, given.training, given.plans, estimate_by_catalog)
    assert found.estimate.step_seconds <= 1.01 * tried.estimate.step_seconds
