"""Searches of several variants find what searching each alone finds, and choose the simplest training spec that is near."""

import pytest

from shardwright.base.errors import InfeasibleError
from shardwright.catalog.cluster_file import load_cluster
from shardwright.catalog.huggingface.load import load_model
from shardwright.costmodel.checks import check_memory
from shardwright.costmodel.evaluate import estimate_plan
from shardwright.planner.best_plan import search
from shardwright.planner.space.fixed import Fixed
from shardwright.planner.space.variants import OpenChoices, training_variants
from shardwright.specs.cluster import ClusterSpec
from shardwright.specs.mesh import PIPELINE_OUTERMOST
from shardwright.specs.training import TrainingSpec
from tests.planner.small_problems import Problem, random_problem

_MAY = OpenChoices(linear_formats=("fp8-rowwise", "fp8-rowwise-gw-hp"), loss_chunks=True)


def _problem(seed: int) -> Problem:
    """A random one whose device and software have all that may be chosen."""
    problem = random_problem(seed)
    group = problem.cluster.node
    device = group.device.model_copy(update={"peak_flops_per_s": {**group.device.peak_flops_per_s, "fp8": 100e12}})
    cluster = problem.cluster.model_copy(update={"groups": (group.model_copy(update={"device": device}),)})
    training = problem.training.model_copy(update={"stack": "torchtitan-0.3"})
    return Problem(problem.model, cluster, training)


def _alone(problem: Problem, training: TrainingSpec, fixed: Fixed | None = None) -> float:
    try:
        return search(
            problem.model, problem.cluster, training, fixed=fixed, runners_up=0, explain_none="nothing"
        ).estimate.step_seconds
    except InfeasibleError:
        return float("inf")


@pytest.mark.parametrize("seed", range(700, 716))
def test_equals_the_best_of_the_variants_alone(seed: int) -> None:
    problem = _problem(seed)
    variants = training_variants(problem.model, problem.cluster, problem.training, _MAY)
    expected = min(_alone(problem, training) for training in variants)
    try:
        found = search(*problem, may_choose=_MAY, runners_up=0, explain_none="nothing")
    except InfeasibleError:
        assert expected == float("inf")
        return
    assert found.estimate.step_seconds == pytest.approx(expected, rel=1e-9)
    assert found.bound_seconds <= expected * (1 + 1e-9)
    assert found.training in variants
    assert found.estimate == estimate_plan(problem.model, problem.cluster, found.training, found.plan)
    check_memory(found.estimate, problem.cluster)


@pytest.mark.parametrize("seed", range(740, 750))
def test_equals_the_best_of_the_sets_of_modules_alone(seed: int) -> None:
    problem = random_problem(seed)
    model, cluster, usual = problem.model, problem.cluster, Fixed(order=PIPELINE_OUTERMOST)
    training = problem.training.model_copy(update={"stack": "megatron-core"})
    may = OpenChoices(recompute_modules=True)
    variants = training_variants(model, cluster, training, may)
    expected = min(_alone(problem, each, usual) for each in variants)
    try:
        found = search(model, cluster, training, fixed=usual, may_choose=may, runners_up=0, explain_none="nothing")
    except InfeasibleError:
        assert expected == float("inf")
        return
    assert found.estimate.step_seconds == pytest.approx(expected, rel=1e-9)
    assert found.estimate == estimate_plan(model, cluster, found.training, found.plan)
    recomputed = {run.recompute for stage in found.plan.stages for run in stage.layers}
    assert found.training == training or "selective" in recomputed


def test_with_a_tolerance_the_loss_stays_in_one_piece_where_pieces_save_little() -> None:
    model, cluster = load_model("llama-3.1-8b"), load_cluster("h100-sxm:8")
    training = TrainingSpec(seq_len=12288, global_batch=64, stack="torchtitan-0.3")
    fixed, may = Fixed(pp=1, cp=1, tp=1, offload_optimizer=0), OpenChoices(loss_chunks=True)
    best = search(model, cluster, training, fixed=fixed, may_choose=may, runners_up=0)
    near = search(model, cluster, training, fixed=fixed, may_choose=may, tolerance=0.1, runners_up=0)
    assert best.training.loss_chunks > 1
    assert near.training == training
    assert near.fastest is not None
    assert near.fastest.training == best.training
    assert near.estimate.step_seconds < best.estimate.step_seconds * 1.1


def test_says_what_the_given_format_would_take() -> None:
    model, cluster = load_model("llama-3.1-8b"), load_cluster("h100-sxm:8")
    training = TrainingSpec(seq_len=8192, global_batch=64, stack="megatron-core")
    found = search(model, cluster, training, may_choose=OpenChoices(linear_formats=("all",)), runners_up=0)
    plain = search(model, cluster, training, runners_up=0)
    assert (found.given, plain.training, plain.as_given) == (training, training, ())
    assert found.training.precision.linear == "fp8"
    ((name, fastest),) = ((each.name, each.fastest) for each in found.as_given)
    assert (name, fastest is not None) == ("linear_formats", True)
    assert fastest is not None
    assert fastest.step_seconds == pytest.approx(plain.estimate.step_seconds)
    assert fastest.training == training


def test_a_loss_in_pieces_makes_a_job_fit() -> None:
    """Microbatches of 8 sequences have 38 GiB of logits, and a B200 lacks 25: published runs of this plan have 8 pieces."""
    model, cluster = load_model("qwen3-30b-a3b"), _reserving(load_cluster("b200:8"), 0.13)
    training = TrainingSpec(seq_len=8192, global_batch=64, stack="torchtitan-0.3")
    fixed = Fixed(pp=1, tp=1, dp_shard=8, zero_stage=3, micro_batch=8, recompute="selective", offload_optimizer=0)
    with pytest.raises(InfeasibleError):
        search(model, cluster, training, fixed=fixed, explain_none="nothing")
    found = search(model, cluster, training, fixed=fixed, may_choose=OpenChoices(loss_chunks=True), tolerance=0.02)
    assert found.training.loss_chunks == 4
    assert found.as_given[0].fastest is None


def test_a_search_without_time_keeps_an_admissible_bound() -> None:
    problem = _problem(701)
    expected = search(*problem, may_choose=_MAY, runners_up=0).estimate.step_seconds
    found = search(*problem, may_choose=_MAY, time_limit_seconds=1e-9)
    assert not found.complete
    assert found.bound_seconds <= expected <= found.estimate.step_seconds


def _reserving(cluster: ClusterSpec, share: float) -> ClusterSpec:
    device = cluster.node.device.model_copy(update={"memory_reserve": share})
    return cluster.model_copy(update={"groups": (cluster.node.model_copy(update={"device": device}),)})


class TestWhatNobodyStated:
    """Pieces of the loss and modules to recompute are tried for a few plans. They never make the answer slower."""

    @pytest.mark.parametrize("seed", range(760, 768))
    def test_the_answer_lies_between_that_as_given_and_that_with_all_open(self, seed: int) -> None:
        problem, usual = random_problem(seed), Fixed(order=PIPELINE_OUTERMOST)
        unstated = OpenChoices(unstated=("loss_chunks", "recompute_modules"))
        given = _alone(problem, problem.training, usual)
        everything = OpenChoices(loss_chunks=True, recompute_modules=True)
        try:
            least = search(*problem, fixed=usual, may_choose=everything, explain_none="nothing").estimate.step_seconds
        except InfeasibleError:
            with pytest.raises(InfeasibleError):
                search(*problem, fixed=usual, may_choose=unstated, explain_none="nothing")
            return
        found = search(*problem, fixed=usual, may_choose=unstated)
        assert least * (1 - 1e-9) <= found.estimate.step_seconds <= given * (1 + 1e-9)
        assert found.bound_seconds <= found.estimate.step_seconds * (1 + 1e-9)
        model = problem.model
        assert found.estimate == estimate_plan(model, problem.cluster, found.training, found.plan)
        check_memory(found.estimate, problem.cluster)

    def test_a_plan_with_fewer_axes_is_found_with_them(self) -> None:
        """As given, FSDP over 8 has to recompute 14 layers in full, and cp 2 none."""
        job = (
            load_model("llama-3.1-8b"),
            _reserved(load_cluster("h100-sxm:8")),
            TrainingSpec(seq_len=8192, global_batch=128),
        )
        given = search(*job, tolerance=0.02)
        found = search(*job, tolerance=0.02, may_choose=OpenChoices(unstated=("loss_chunks", "recompute_modules")))
        assert (given.plan.mesh.cp, given.training) == (2, job[2])
        assert found.plan.mesh.dp_shard == 8
        assert found.training.loss_chunks > 1
        assert found.training.recompute_modules
        assert found.estimate.step_seconds <= 1.04 * given.estimate.step_seconds
        assert {each.name for each in found.as_given} == {"loss_chunks", "recompute_modules"}

    def test_enough_plans_are_tried_to_find_the_best(self) -> None:
        """Of the 64 entries of the lowest bounds none is the one that modules serve best; it is 0.2% faster."""
        training = TrainingSpec(seq_len=4096, global_batch=1024, stack="megatron-core")
        job = load_model("mixtral-8x7b"), load_cluster("h100-sxm:64"), training
        found = search(*job, may_choose=OpenChoices(unstated=("loss_chunks", "recompute_modules")))
        every = search(*job, may_choose=OpenChoices(recompute_modules=True))
        assert found.estimate.step_seconds == every.estimate.step_seconds

    def test_where_nothing_fits_as_given_all_plans_are_tried(self) -> None:
        """The logits of 65,536 tokens in one piece are 14 bytes x 65,536 x 128,256 = 118 GB."""
        job = load_model("llama-3.2-1b"), load_cluster("h100-sxm:1"), TrainingSpec(seq_len=65536, global_batch=1)
        with pytest.raises(InfeasibleError):
            search(*job, explain_none="nothing")
        found = search(*job, may_choose=OpenChoices(unstated=("loss_chunks", "recompute_modules")))
        assert found.training.loss_chunks > 1
        assert [each.fastest for each in found.as_given if each.name == "loss_chunks"] == [None]

    def test_what_is_stated_stays(self) -> None:
        job = (
            load_model("llama-3.1-8b"),
            _reserved(load_cluster("h100-sxm:8")),
            TrainingSpec(seq_len=8192, global_batch=128),
        )
        found = search(*job, tolerance=0.02, may_choose=OpenChoices(unstated=("recompute_modules",)))
        assert found.training.loss_chunks == 1
        whole = search(*job, may_choose=OpenChoices(unstated=("recompute_modules",)), fixed=Fixed(recompute="full"))
        assert whole.training == job[2]

    def test_software_without_them_is_left_as_it_is(self) -> None:
        training = TrainingSpec(seq_len=2048, global_batch=64, stack="megatron-lm")
        unstated = OpenChoices(unstated=("loss_chunks", "recompute_modules"))
        found = search(load_model("llama-3.1-8b"), load_cluster("h100-sxm:8"), training, may_choose=unstated)
        assert found.training == training


def _reserved(cluster: ClusterSpec) -> ClusterSpec:
    """With the share of device memory free that the commands keep."""
    group = cluster.groups[0]
    device = group.device.model_copy(update={"memory_reserve": 0.114})
    return cluster.model_copy(update={"groups": (group.model_copy(update={"device": device}),)})
