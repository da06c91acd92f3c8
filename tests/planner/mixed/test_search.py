"""The search on mixed clusters: equal to brute force, never slower than a group alone, and what it says."""

from collections.abc import Collection
from functools import cache

import pytest

from shardwright.base.errors import InfeasibleError, SpecError
from shardwright.catalog.cluster_file import load_cluster
from shardwright.catalog.huggingface.load import load_model
from shardwright.costmodel.checks import check_memory
from shardwright.costmodel.evaluate import estimate_plan
from shardwright.planner.best_plan import search
from shardwright.planner.mixed.search import ACROSS, Across, MixedResult, search_mixed
from shardwright.planner.space.fixed import Fixed
from shardwright.planner.space.variants import OpenChoices
from shardwright.specs.cluster import ClusterSpec
from shardwright.specs.training import TrainingSpec
from tests.planner.brute_force import fastest
from tests.planner.mixed.mixed_problems import (
    fastest_of_all,
    fastest_replicas,
    random_mixed_problem,
    random_replica_problem,
)

LLAMA = load_model("llama-3.1-8b")
MIXED = load_cluster("h100-sxm:16+a100-sxm-80gb:16")
TRAINING = TrainingSpec(seq_len=4096, global_batch=64)
PIPELINE: tuple[Across, ...] = ("pipeline",)
REPLICAS: tuple[Across, ...] = ("replicas",)

# Each leaves something open that couples with the groups, and few enough plans to try all.
_FIXED = (
    Fixed(recompute="none", schedule="1f1b"),
    Fixed(micro_batch=1, offload_optimizer=0, schedule="1f1b", tp=1),
    Fixed(recompute="full", schedule="gpipe"),
)


def found_on(cluster: ClusterSpec, fixed: Fixed | None = None, across: Collection[Across] = ACROSS) -> MixedResult:
    return search_mixed(LLAMA, cluster, TRAINING, fixed=fixed, across=across, runners_up=0)


@cache
def found_on_both(across: tuple[Across, ...] = ACROSS) -> MixedResult:
    return found_on(MIXED, across=across)


class TestEqualsBruteForce:
    """The step is that of the fastest of all plans through the groups in any order or on one alone, each estimated on its own."""

    @pytest.mark.parametrize("seed", range(9))
    def test_step(self, seed: int) -> None:
        problem = random_mixed_problem(seed)
        fixed = _FIXED[seed % len(_FIXED)]
        best = fastest_of_all(problem, fixed)
        if best is None:
            with pytest.raises((InfeasibleError, SpecError)):
                search_mixed(*problem, fixed=fixed, explain_none="nothing")
            return
        found = search_mixed(*problem, fixed=fixed, runners_up=0)
        assert found.result.estimate.step_seconds == pytest.approx(best, rel=1e-9)
        assert found.result.gap <= 1e-9

    def test_the_problems_reach_over_groups_and_leave_some_out(self) -> None:
        """Else the comparison above would say nothing of either."""
        mixed = []
        for seed in range(9):
            problem = random_mixed_problem(seed)
            try:
                mixed.append(search_mixed(*problem, runners_up=0, explain_none="nothing").cluster.is_mixed)
            except (InfeasibleError, SpecError):
                continue
        assert 2 <= sum(mixed) < len(mixed)


class TestMixedPlans:
    def test_no_group_alone_is_faster(self) -> None:
        mixed = found_on_both().result.estimate.step_seconds
        for index in range(2):
            alone = search(LLAMA, MIXED.alone(index), TRAINING, runners_up=0).estimate.step_seconds
            assert mixed <= alone * (1 + 1e-9)

    def test_faster_devices_hold_more_layers(self) -> None:
        found = found_on_both(PIPELINE)
        plan, cluster = found.result.plan, found.cluster
        groups = cluster.groups_of_ranks(plan.mesh.pp, plan.mesh.ranks // plan.mesh.pp)
        layers = {group: 0 for group in groups}
        for group, stage in zip(groups, plan.stages, strict=True):
            layers[group] += stage.layer_count
        fast = [group.device.name for group in cluster.groups].index("h100-sxm")
        assert layers[fast] > 1.5 * layers[1 - fast]

    def test_the_result_is_the_estimate_of_its_plan_on_its_cluster_and_fits(self) -> None:
        found = found_on_both()
        estimate = estimate_plan(LLAMA, found.cluster, TRAINING, found.result.plan)
        assert estimate == found.result.estimate
        check_memory(estimate, found.cluster)

    def test_much_slower_devices_are_left_out_and_named(self) -> None:
        cluster = load_cluster("h100-sxm:8+t4:8@ethernet-1g")
        found = search_mixed(LLAMA, cluster, TRAINING.model_copy(update={"precision": _fp16()}), runners_up=0)
        assert not found.cluster.is_mixed
        assert found.cluster.node.device.name == "h100-sxm"
        assert found.notes[0].startswith("The plan leaves 8 t4 idle: ")

    def test_a_note_says_where_the_ranks_are(self) -> None:
        note = found_on_both(PIPELINE).notes[0]
        assert "h100-sxm with" in note
        assert "a100-sxm-80gb with" in note

    def test_fixed_choices_hold(self) -> None:
        found = found_on(MIXED, Fixed(tp=4, pp=4, micro_batch=1), PIPELINE)
        mesh = found.result.plan.mesh
        assert (mesh.tp, mesh.pp, found.result.plan.micro_batch) == (4, 4, 1)

    def test_a_plan_fixed_whole_is_found_again(self) -> None:
        first = found_on_both(PIPELINE)
        again = search_mixed(LLAMA, first.cluster, TRAINING, fixed=Fixed.of(first.result.plan), runners_up=0)
        assert again.result.plan == first.result.plan
        assert again.result.estimate.step_seconds == pytest.approx(first.result.estimate.step_seconds, rel=1e-12)

    def test_three_groups(self) -> None:
        cluster = load_cluster("h100-sxm:8+a100-sxm-80gb:8+h200-sxm:8")
        three = found_on(cluster).result.estimate.step_seconds
        two = found_on(load_cluster("h100-sxm:8+h200-sxm:8")).result.estimate.step_seconds
        assert three <= two * (1 + 1e-9)

    def test_equal_groups_apart_in_the_file_are_one(self) -> None:
        """Nothing but the fabric lies between them, so a plan of both is that of a uniform cluster."""
        cluster = load_cluster("h100-sxm:8+t4:8@ethernet-1g+h100-sxm:8")
        training = TRAINING.model_copy(update={"precision": _fp16()})
        found = search_mixed(LLAMA, cluster, training, runners_up=0).result.estimate.step_seconds
        whole = search(LLAMA, load_cluster("h100-sxm:16"), training, runners_up=0).estimate.step_seconds
        assert found == pytest.approx(whole, rel=1e-9)


def _fp16() -> object:
    return TRAINING.precision.model_copy(update={"compute": "fp16"})


_ETHERNET = load_cluster("h100-sxm:8@ethernet-25g").groups[0]


class TestReplicas:
    """Replicas in both groups, whose shares of the batch suit the groups' speeds."""

    @pytest.mark.parametrize("seed", [0, 2, 3, 5, 8, 9, 11, 14, 23])
    def test_the_step_equals_brute_force(self, seed: int) -> None:
        problem, fixed = random_replica_problem(seed), _FIXED[seed % len(_FIXED)]
        alone = [fastest(problem.model, problem.cluster.alone(index), problem.training, fixed) for index in range(2)]
        best = min(seconds for seconds in (*alone, fastest_replicas(problem, fixed)) if seconds is not None)
        found = search_mixed(*problem, fixed=fixed, across=REPLICAS, runners_up=0).result
        assert found.estimate.step_seconds == pytest.approx(best, rel=1e-9)
        assert found.gap <= 1e-9

    def test_they_win_there_and_groups_alone_too(self) -> None:
        """Else the comparison above would say little. An equal share for every device would be slower."""
        shares = []
        for seed in (0, 2, 8, 9, 14, 23):
            problem = random_replica_problem(seed)
            plan = search_mixed(*problem, fixed=_FIXED[seed % 3], across=REPLICAS, runners_up=0).result.plan
            shares.append([group.micro_batch * group.microbatches for group in plan.replicas])
        assert [] in shares
        assert any(len(set(share)) == 2 for share in shares)

    def test_the_faster_group_takes_more_sequences(self) -> None:
        found = found_on_both()
        plan = found.result.plan
        names = [group.device.name for group in found.cluster.groups]
        taken = {
            name: part.count * part.micro_batch * part.microbatches
            for name, part in zip(names, plan.replicas, strict=True)
        }
        assert taken["h100-sxm"] > 1.5 * taken["a100-sxm-80gb"]
        assert found.notes[0].startswith("Data parallelism reaches over the groups: ")

    def test_both_ways_are_never_slower_than_one(self) -> None:
        each = [found_on_both(way).result.estimate.step_seconds for way in (PIPELINE, REPLICAS)]
        assert found_on_both().result.estimate.step_seconds == pytest.approx(min(each), rel=1e-9)

    def test_the_result_is_the_estimate_of_its_plan_and_fits(self) -> None:
        found = found_on_both(REPLICAS)
        assert found.result.plan.replicas
        estimate = estimate_plan(LLAMA, found.cluster, TRAINING, found.result.plan)
        assert estimate == found.result.estimate
        check_memory(estimate, found.cluster)

    def test_fixed_choices_hold_in_every_group(self) -> None:
        plan = found_on(MIXED, Fixed(tp=2, micro_batch=2, recompute="full"), REPLICAS).result.plan
        assert plan.mesh.tp == 2
        assert {part.micro_batch for part in plan.replicas} == {2}
        policies = {run.recompute for part in plan.replicas for stage in part.stages for run in stage.layers}
        assert policies == {"full"}

    def test_a_slow_link_between_makes_the_pipeline_win(self) -> None:
        """Gradients of 8 G parameters cross 25 Gb/s once a step; the activations of the batch are fewer bytes, beside compute."""
        half = load_cluster("h100-sxm:16").groups[0]
        other = half.model_copy(update={"host": half.host.model_copy(update={"cores": 64})})
        islands = ClusterSpec(name="islands", groups=(half, other), between=_ETHERNET.nic)
        pipeline, replicas = found_on(islands, across=PIPELINE), found_on(islands, across=REPLICAS)
        assert pipeline.cluster.is_mixed
        assert pipeline.result.estimate.step_seconds < replicas.result.estimate.step_seconds
        assert not found_on(islands).result.plan.replicas

    def test_a_search_without_time_returns_its_first_plan_and_says_so(self) -> None:
        found = search_mixed(LLAMA, MIXED, TRAINING, across=REPLICAS, time_limit_seconds=1e-9, runners_up=0).result
        whole = found_on_both(REPLICAS).result
        assert not found.complete
        assert found.estimate.step_seconds >= whole.estimate.step_seconds * (1 - 1e-9)
        assert found.bound_seconds <= whole.estimate.step_seconds

    def test_three_groups(self) -> None:
        cluster = load_cluster("h100-sxm:8+a100-sxm-80gb:8+h200-sxm:8")
        found = found_on(cluster, across=REPLICAS)
        assert len(found.result.plan.replicas) == 3
        assert found.result.plan.global_batch == TRAINING.global_batch

    def test_a_plan_with_replicas_cannot_be_fixed_whole(self) -> None:
        plan = found_on_both(REPLICAS).result.plan
        with pytest.raises(SpecError, match="the plan has replicas in 2 groups"):
            Fixed.of(plan)

    def test_nothing_across_is_the_best_group(self) -> None:
        found = found_on(MIXED, across=())
        alone = [search(LLAMA, MIXED.alone(index), TRAINING, runners_up=0).estimate.step_seconds for index in range(2)]
        assert found.result.estimate.step_seconds == pytest.approx(min(alone), rel=1e-9)
        assert "reaches over no link between groups" in found.notes[0]


class TestOrderOfHolmes:
    def test_infiniband_before_islands_before_ethernet(self) -> None:
        """Homogeneous InfiniBand, two islands of it with the pipeline across Ethernet, and Ethernet everywhere
        (Holmes, arXiv 2312.03549, names the same order)."""
        half = load_cluster("h100-sxm:16").groups[0]
        islands = ClusterSpec(name="islands", groups=(half, half), between=_ETHERNET.nic)
        infiniband = search(LLAMA, load_cluster("h100-sxm:32"), TRAINING, runners_up=0).estimate.step_seconds
        ethernet = search(LLAMA, load_cluster("h100-sxm:32@ethernet-25g"), TRAINING, runners_up=0).estimate.step_seconds
        assert infiniband < found_on(islands).result.estimate.step_seconds <= ethernet * 1.02

    def test_the_pipeline_crosses_ethernet_and_gains_by_it(self) -> None:
        """Two stages under 1F1B everywhere: on the islands data parallelism stays on InfiniBand."""
        fixed = Fixed(schedule="1f1b", pp=2)
        half = load_cluster("h100-sxm:16").groups[0]
        islands = ClusterSpec(name="islands", groups=(half, half), between=_ETHERNET.nic)
        steps = [
            search(LLAMA, load_cluster(name), TRAINING, fixed=fixed, runners_up=0).estimate.step_seconds
            for name in ("h100-sxm:32", "h100-sxm:32@ethernet-25g")
        ]
        found = search_mixed(LLAMA, islands, TRAINING, fixed=fixed, runners_up=0)
        assert found.cluster.is_mixed
        assert steps[0] < found.result.estimate.step_seconds < steps[1]


class TestRefusals:
    def test_a_schedule_that_is_not_available_plans_for_one_group(self) -> None:
        found = found_on(MIXED, Fixed(schedule="interleaved-1f1b"))
        assert not found.cluster.is_mixed
        assert "schedule interleaved-1f1b is not available on 16, 16 devices" in found.notes[0]

    def test_open_choices_of_the_training(self) -> None:
        with pytest.raises(SpecError, match="on which the training spec stays as given"):
            search_mixed(LLAMA, MIXED, TRAINING, may_choose=OpenChoices(loss_chunks=True))

    def test_what_is_open_because_nobody_stated_it_stays_as_given(self) -> None:
        """Beside frozen weights the loss is opened where nobody states its pieces, which is no reason to refuse the job."""
        unstated = OpenChoices(loss_chunks=True, unstated=("loss_chunks", "recompute_modules"))
        found = search_mixed(LLAMA, MIXED, TRAINING, may_choose=unstated, runners_up=0)
        assert found.result.training == TRAINING

    def test_too_many_groups(self) -> None:
        cluster = load_cluster("h100-sxm:8+a100-sxm-80gb:8+h200-sxm:8+l40s:8+rtx-4090:8")
        with pytest.raises(SpecError, match="has 5 groups of different nodes; the planner arranges at most 4"):
            found_on(cluster)
