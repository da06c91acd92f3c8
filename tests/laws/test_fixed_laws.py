"""Laws of what is fixed: a plan whose every choice is fixed is the plan that the search finds, at the plan's own estimate."""

import pytest
from hypothesis import HealthCheck, assume, given, settings

from shardwright.base.errors import InfeasibleError, SpecError
from shardwright.costmodel.checks import check_memory
from shardwright.costmodel.evaluate import estimate_plan
from shardwright.planner.best_plan import search
from shardwright.planner.space.fixed import Fixed
from shardwright.planner.why.certificate import certify
from shardwright.specs.choices import CHOICES
from shardwright.specs.mesh import Mesh
from shardwright.specs.plan import LayerRun, Plan, Stage
from shardwright.specs.schedules import ScheduleName
from shardwright.specs.training import TrainingSpec
from tests.laws.valid_runs import Run, runs
from tests.planner.small_problems import tiny_cluster, tiny_model

seen = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def of_one_zero_stage(run: Run) -> Plan:
    """The plan with its highest ZeRO stage on all layers, and no sequence parallelism without tensor parallelism."""
    zero = run.plan.zero_stage
    stages = tuple(
        Stage(layers=tuple(each.model_copy(update={"zero_stage": zero}) for each in stage.layers))
        for stage in run.plan.stages
    )
    split = run.plan.sequence_parallel and run.plan.mesh.tp > 1
    return run.plan.model_copy(update={"stages": stages, "sequence_parallel": split})


def test_every_choice_of_a_plan_can_be_fixed() -> None:
    assert list(Fixed.model_fields) == [*(choice.name for choice in CHOICES), "within", "approximate"]


def test_an_interlaced_pipeline_is_refused() -> None:
    """Its costs are not in the planner's, so neither a search nor a certificate would be of that plan."""
    stage = Stage(layers=(LayerRun(count=2),))
    plan = Plan(mesh=Mesh(pp=2), micro_batch=1, microbatches=4, stages=(stage, stage), vocabulary_parallel="interlaced")
    with pytest.raises(SpecError, match="vocabulary_parallel 'interlaced', which the planner does not choose"):
        Fixed.of(plan)


class TestFixingEveryChoiceOfAPlanFindsThatPlan:
    """Search with `Fixed.of(plan)`: that plan with its own estimate where it fits, and the refusal that nothing fits else."""

    @seen
    @given(runs())
    def test_law(self, run: Run) -> None:
        assume(run.cluster.devices == run.plan.mesh.ranks)
        plan = of_one_zero_stage(run)
        own = estimate_plan(run.model, run.cluster, run.training, plan)
        try:
            check_memory(own, run.cluster)
        except InfeasibleError:
            with pytest.raises(InfeasibleError):
                search(run.model, run.cluster, run.training, fixed=Fixed.of(plan), explain_none="nothing")
            return
        found = search(run.model, run.cluster, run.training, fixed=Fixed.of(plan), runners_up=0)
        assert found.plan == plan
        assert found.estimate == own
        assert found.bound_seconds == pytest.approx(own.step_seconds, rel=1e-9)


class TestACertificateIsOfThePlanItself:
    """Its step is the plan's own estimate, and its bound is not above it."""

    @settings(seen, max_examples=40)
    @given(runs())
    def test_law(self, run: Run) -> None:
        assume(run.cluster.devices == run.plan.mesh.ranks and run.plan.stages_per_rank == 1)
        plan = of_one_zero_stage(run)
        own = estimate_plan(run.model, run.cluster, run.training, plan)
        try:
            check_memory(own, run.cluster)
        except InfeasibleError:
            with pytest.raises(InfeasibleError):
                certify(plan, run.model, run.cluster, run.training)
            return
        certificate = certify(plan, run.model, run.cluster, run.training, time_limit_seconds=0.5)
        assert certificate.step_seconds == pytest.approx(own.step_seconds, rel=1e-9)
        assert certificate.bound_seconds <= own.step_seconds * (1 + 1e-9)


@pytest.mark.parametrize(
    ("schedule", "chunks"), [("zb-h1", 1), ("zb-2p", 1), ("zb-v", 2), ("v-half", 2), ("v-min", 2), ("dualpipe-v", 2)]
)
def test_schedules_that_split_the_backward_are_priced_by_the_planner(schedule: ScheduleName, chunks: int) -> None:
    """A plan that has one can be fixed: its weight gradients are in the planner's costs. The search with the schedule
    fixed finds none that is slower."""
    model, cluster = tiny_model(layers=8), tiny_cluster(devices=4)
    training = TrainingSpec(seq_len=1024, global_batch=16)
    stage = Stage(layers=(LayerRun(count=8 // (4 * chunks)),))
    plan = Plan(
        mesh=Mesh(pp=4), micro_batch=1, microbatches=16, schedule=schedule, stages=(stage,) * 4 * chunks,
        sequence_parallel=False,
    )  # fmt: skip
    found = search(model, cluster, training, fixed=Fixed.of(plan), runners_up=0)
    assert found.plan == plan
    assert found.bound_seconds == pytest.approx(found.estimate.step_seconds, rel=1e-9)
    best = search(model, cluster, training, fixed=Fixed(schedule=schedule), runners_up=0)
    assert best.plan.schedule == schedule
    assert best.bound_seconds <= best.estimate.step_seconds * (1 + 1e-9)
    assert best.estimate.step_seconds <= found.estimate.step_seconds * (1 + 1e-9)
