"""Plans on mixed clusters: each pipeline rank costs what its own group costs, and messages between groups take the slower side."""

import numpy as np
import pytest

from shardwright.base.errors import InfeasibleError, SpecError
from shardwright.catalog.cluster_file import load_cluster
from shardwright.catalog.huggingface.load import load_model
from shardwright.costmodel.checks import check_memory, lacking_bytes
from shardwright.costmodel.evaluate import estimate_plan, plan_costs, simulate_plan
from shardwright.costmodel.op_times.between_groups import Crossing
from shardwright.costmodel.op_times.constants import CALIBRATED
from shardwright.costmodel.plan_costs import PlanCosts
from shardwright.costmodel.tables.memory import usable_bytes
from shardwright.specs.cluster import ClusterSpec, Link
from shardwright.specs.mesh import PIPELINE_INSIDE_DATA, Mesh
from shardwright.specs.plan import LayerRun, Plan, Stage
from shardwright.specs.training import TrainingSpec
from tests.costmodel.fakes import small_model

LLAMA = load_model("llama-3.1-8b")
MIXED = load_cluster("h100-sxm:8+a100-sxm-80gb:8")
H100, A100 = load_cluster("h100-sxm:16"), load_cluster("a100-sxm-80gb:16")
TRAINING = TrainingSpec(seq_len=4096, global_batch=32)
ETHERNET = Link(kind="ethernet", bytes_per_s=2e9, latency_seconds=0.0)


def plan(*layers: int, tp: int = 2, dp: int = 4, schedule: str = "1f1b", zero: int = 1) -> Plan:
    stages = [Stage(layers=(LayerRun(count=count, zero_stage=zero),)) for count in layers]
    return Plan.parse(
        {
            "mesh": Mesh(pp=len(layers), dp_shard=dp, tp=tp), "micro_batch": 1, "microbatches": 32 // dp,
            "schedule": schedule, "stages": stages,
        },
        source="test",
    )  # fmt: skip


def joined(link: Link) -> ClusterSpec:
    return MIXED.model_copy(update={"between": link})


def costs_on(cluster: ClusterSpec, one: Plan) -> PlanCosts:
    return plan_costs(LLAMA, cluster, TRAINING, one)


class TestStages:
    def test_each_costs_what_it_costs_on_a_cluster_of_its_group(self) -> None:
        """Layers, ends, reductions and updates alike: rank 0 is on H100, rank 1 on A100."""
        one = plan(20, 12)
        mixed, first, last = (costs_on(cluster, one).stage_costs() for cluster in (MIXED, H100, A100))
        for part in ("forward", "backward", "reduce_tail", "first_forward_extra", "optimizer"):
            found, fast, slow = (getattr(costs, part) for costs in (mixed, first, last))
            assert found.tolist() == pytest.approx([fast[0], slow[1]], rel=1e-12)
        assert mixed.forward[1] > 1.5 * first.forward[1]

    def test_the_other_order_swaps_the_groups(self) -> None:
        one = plan(20, 12)
        turned = costs_on(MIXED.in_order([1, 0]), one).stage_costs()
        assert turned.forward[0] == pytest.approx(costs_on(A100, one).stage_costs().forward[0])
        assert turned.forward[1] == pytest.approx(costs_on(H100, one).stage_costs().forward[1])

    def test_four_ranks_lie_two_by_two(self) -> None:
        one = plan(10, 10, 6, 6, dp=2)
        mixed, first, last = (costs_on(cluster, one).stage_costs() for cluster in (MIXED, H100, A100))
        assert mixed.forward.tolist() == pytest.approx([*first.forward[:2], *last.forward[2:]])
        assert mixed.send[[0, 2]].tolist() == pytest.approx([first.send[0], last.send[2]])

    def test_a_tied_embedding_is_summed_across_the_groups(self) -> None:
        """Both ends take the link between the groups, whatever is inside them."""
        model = small_model(tied=True)
        one = plan(2, 2)
        near, far = (
            plan_costs(model, cluster, TRAINING, one).stage_costs().reduce_tail
            for cluster in (MIXED, joined(replace_rate(ETHERNET, 1e6)))
        )
        assert (far > near + 1e-3).all()


def replace_rate(link: Link, bytes_per_s: float) -> Link:
    return link.model_copy(update={"bytes_per_s": bytes_per_s})


class TestSends:
    """A microbatch of 4,096 tokens of 4,096 numbers of 2 bytes, split over tp 2: 16.8 MB from each of the 8 ranks of a stage."""

    def test_a_nodes_ranks_share_the_link_between_groups(self) -> None:
        """8 x 16.8 MB through 2 GB/s are 67 ms, and up to twice that at the rate that software reaches."""
        send = costs_on(joined(ETHERNET), plan(20, 12)).stage_costs().send
        least = 8 * 4096 * 4096 * 2 / 2 / 2e9
        assert least < send[0] < 2 * least

    def test_half_the_rate_takes_twice_as_long(self) -> None:
        slow, fast = (
            float(costs_on(joined(replace_rate(ETHERNET, rate)), plan(20, 12)).stage_costs().send[0])
            for rate in (1e9, 2e9)
        )
        assert slow == pytest.approx(2 * fast, rel=1e-3)

    def test_fewer_ranks_of_a_stage_share_it(self) -> None:
        """4 ranks a stage instead of 8. They send as many bytes each."""
        eight, four = (
            float(costs_on(joined(ETHERNET), one).stage_costs().send[at])
            for one, at in ((plan(20, 12), 0), (plan(10, 10, 6, 6, dp=2), 1))
        )
        assert eight == pytest.approx(2 * four, rel=1e-3)

    def test_a_link_inside_a_box_is_each_devices_own(self) -> None:
        pcie = Link(kind="pcie", bytes_per_s=2e9, latency_seconds=0.0)
        shared, own = (float(costs_on(joined(link), plan(20, 12)).stage_costs().send[0]) for link in (ETHERNET, pcie))
        assert own < shared / 4

    def test_without_a_link_of_its_own_the_slower_side_counts(self) -> None:
        """8 NICs of 50 GB/s on one side, of 25 GB/s on the other."""
        fast_node, slow_node = MIXED.groups
        pairs = (MIXED.groups, (fast_node, fast_node), (slow_node, slow_node))
        each = [Crossing.of(pair, None, TRAINING) for pair in pairs]
        found, fast, slow = (float(one.seconds("send", 1e9, np.array([8]))[0]) for one in each)
        assert found == slow > 1.5 * fast


class TestTheWhole:
    @pytest.mark.parametrize("schedule", ["1f1b", "gpipe"])
    @pytest.mark.parametrize("layers", [(20, 12), (10, 10, 6, 6), (9, 9, 9, 5)])
    def test_the_estimate_equals_the_simulation(self, layers: tuple[int, ...], schedule: str) -> None:
        one = plan(*layers, dp=8 // len(layers), schedule=schedule)
        for cluster in (MIXED, joined(ETHERNET), MIXED.in_order([1, 0])):
            found = estimate_plan(LLAMA, cluster, TRAINING, one).step_seconds
            assert found == pytest.approx(simulate_plan(LLAMA, cluster, TRAINING, one).step_seconds, rel=1e-9)

    def test_the_share_of_peak_counts_the_peaks_of_both(self) -> None:
        found = estimate_plan(LLAMA, MIXED, TRAINING, plan(20, 12))
        peaks = sum(8 * group.device.peak_flops_per_s["bf16"] for group in MIXED.groups)
        assert found.mfu == pytest.approx(found.model_flops / (found.step_seconds * peaks))

    def test_the_interval_holds_those_of_both_groups(self) -> None:
        found = estimate_plan(LLAMA, MIXED, TRAINING, plan(20, 12))
        alone = estimate_plan(LLAMA, H100, TRAINING, plan(20, 12))
        for mixed, one in zip(found.step_seconds_intervals, alone.step_seconds_intervals, strict=True):
            assert mixed.low / found.step_seconds <= one.low / alone.step_seconds * (1 + 1e-9)

    def test_equal_groups_give_the_estimate_of_one_cluster(self) -> None:
        """Two groups that differ in one NIC latency by nothing that counts: the same figures as of 16 equal devices."""
        node = H100.groups[0].model_copy(update={"nodes": 1})
        other = node.model_copy(update={"host": node.host.model_copy(update={"cores": node.host.cores + 1})})
        apart = ClusterSpec(name="apart", groups=(node, other))
        assert apart.is_mixed
        mixed, whole = (estimate_plan(LLAMA, cluster, TRAINING, plan(16, 16)) for cluster in (apart, H100))
        assert mixed.step_seconds == pytest.approx(whole.step_seconds, rel=1e-12)
        assert [part.total for part in mixed.memory] == pytest.approx([part.total for part in whole.memory])


class TestMemory:
    def test_each_rank_is_held_against_its_own_device(self) -> None:
        """The second group's devices have a fifth of the memory, and the first group's plan does not notice."""
        small = MIXED.groups[1].device.model_copy(update={"memory_bytes": 16e9})
        group = MIXED.groups[1].model_copy(update={"device": small})
        cluster = MIXED.model_copy(update={"groups": (MIXED.groups[0], group)})
        found = estimate_plan(LLAMA, cluster, TRAINING, plan(20, 12))
        with pytest.raises(InfeasibleError, match=r"pipeline rank 1 needs .* and a100-sxm-80gb has"):
            check_memory(found, cluster)
        assert lacking_bytes(found, cluster) == pytest.approx(found.memory[1].total - usable_bytes(small, CALIBRATED))
        check_memory(found, MIXED)


class TestRefusals:
    def test_a_rank_over_two_groups(self) -> None:
        with pytest.raises(
            SpecError, match=r"pipeline rank 0 would have devices of two groups .* is 16; allowed: 1, 2, 4, 8"
        ):
            costs_on(MIXED, plan(32, dp=8))

    def test_several_stages_on_a_rank(self) -> None:
        one = plan(16, 16).model_copy(update={"schedule": "zb-h1"})
        with pytest.raises(
            SpecError, match=r"schedule zb-h1 is not available on .* a mixed cluster; allowed: 1f1b, gpipe"
        ):
            costs_on(MIXED, one)

    def test_another_order_of_the_axes(self) -> None:
        one = plan(16, 16)
        turned = one.model_copy(update={"mesh": one.mesh.model_copy(update={"order": PIPELINE_INSIDE_DATA})})
        with pytest.raises(SpecError, match="order tp-cp-pp-dp is not available"):
            costs_on(MIXED, turned)

    def test_a_device_without_the_format(self) -> None:
        """The A100 has no fp8; the message names it."""
        training = TRAINING.model_copy(
            update={"precision": TRAINING.precision.model_copy(update={"linear": "fp8"}), "stack": "megatron-core"}
        )
        with pytest.raises(SpecError, match="a100-sxm-80gb has no matmuls in fp8"):
            plan_costs(LLAMA, MIXED, training, plan(16, 16))
