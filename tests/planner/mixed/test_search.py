"""The search on mixed clusters: equal to brute force, never slower than a group alone, and what it says."""

import pytest

from shardwright.base.errors import InfeasibleError, SpecError
from shardwright.catalog.cluster_file import load_cluster
from shardwright.catalog.huggingface.load import load_model
from shardwright.costmodel.checks import check_memory
from shardwright.costmodel.evaluate import estimate_plan
from shardwright.planner.best_plan import search
from shardwright.planner.mixed.search import MixedResult, search_mixed
from shardwright.planner.space.fixed import Fixed
from shardwright.planner.space.variants import OpenChoices
from shardwright.specs.cluster import ClusterSpec
from shardwright.specs.training import TrainingSpec
from tests.planner.mixed.mixed_problems import fastest_of_all, random_mixed_problem

LLAMA = load_model("llama-3.1-8b")
MIXED = load_cluster("h100-sxm:16+a100-sxm-80gb:16")
TRAINING = TrainingSpec(seq_len=4096, global_batch=64)

# Each leaves something open that couples with the groups, and few enough plans to try all.
_FIXED = (
    Fixed(recompute="none", schedule="1f1b"),
    Fixed(micro_batch=1, offload_optimizer=0, schedule="1f1b", tp=1),
    Fixed(recompute="full", schedule="gpipe"),
)


def found_on(cluster: ClusterSpec, fixed: Fixed | None = None) -> MixedResult:
    return search_mixed(LLAMA, cluster, TRAINING, fixed=fixed, runners_up=0)


class TestEqualsBruteForce:
    """The step is that of the fastest of all plans through the groups in any order or on one alone, each estimated on its own."""

    @pytest.mark.parametrize("seed", range(15))
    def test_step(self, seed: int) -> None:
        problem = random_mixed_problem(seed)
        fixed = _FIXED[seed % len(_FIXED)]
        best = fastest_of_all(problem, fixed)
        if best is None:
            with pytest.raises((InfeasibleError, SpecError)):
                search_mixed(*problem, fixed=fixed)
            return
        found = search_mixed(*problem, fixed=fixed)
        assert found.result.estimate.step_seconds == pytest.approx(best, rel=1e-9)
        assert found.result.gap <= 1e-9

    def test_the_problems_reach_over_groups_and_leave_some_out(self) -> None:
        """Else the comparison above would say nothing of either."""
        mixed = []
        for seed in range(12):
            problem = random_mixed_problem(seed)
            try:
                mixed.append(search_mixed(*problem).cluster.is_mixed)
            except (InfeasibleError, SpecError):
                continue
        assert 2 <= sum(mixed) < len(mixed)


class TestMixedPlans:
    def test_no_group_alone_is_faster(self) -> None:
        mixed = found_on(MIXED).result.estimate.step_seconds
        for index in range(2):
            alone = search(LLAMA, MIXED.alone(index), TRAINING, runners_up=0).estimate.step_seconds
            assert mixed <= alone * (1 + 1e-9)

    def test_faster_devices_hold_more_layers(self) -> None:
        found = found_on(MIXED)
        plan, cluster = found.result.plan, found.cluster
        groups = cluster.groups_of_ranks(plan.mesh.pp, plan.mesh.ranks // plan.mesh.pp)
        layers = {group: 0 for group in groups}
        for group, stage in zip(groups, plan.stages, strict=True):
            layers[group] += stage.layer_count
        fast = [group.device.name for group in cluster.groups].index("h100-sxm")
        assert layers[fast] > 1.5 * layers[1 - fast]

    def test_the_result_is_the_estimate_of_its_plan_on_its_cluster_and_fits(self) -> None:
        found = found_on(MIXED)
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
        note = found_on(MIXED).notes[0]
        assert "h100-sxm with" in note
        assert "a100-sxm-80gb with" in note

    def test_fixed_choices_hold(self) -> None:
        found = found_on(MIXED, Fixed(tp=4, pp=4, micro_batch=1))
        mesh = found.result.plan.mesh
        assert (mesh.tp, mesh.pp, found.result.plan.micro_batch) == (4, 4, 1)

    def test_a_plan_fixed_whole_is_found_again(self) -> None:
        first = found_on(MIXED)
        again = search_mixed(LLAMA, first.cluster, TRAINING, fixed=Fixed.of(first.result.plan))
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

    def test_too_many_groups(self) -> None:
        cluster = load_cluster("h100-sxm:8+a100-sxm-80gb:8+h200-sxm:8+l40s:8+rtx-4090:8")
        with pytest.raises(SpecError, match="has 5 groups of different nodes; the planner arranges at most 4"):
            found_on(cluster)
