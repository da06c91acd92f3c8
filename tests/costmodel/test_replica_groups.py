"""Replicas in several groups of a mixed cluster: each group costs what it costs alone, and gradients are summed across the groups."""

import numpy as np
import pytest

from shardwright.base.errors import InfeasibleError, SpecError
from shardwright.catalog.cluster_file import load_cluster
from shardwright.catalog.huggingface.load import load_model
from shardwright.costmodel.checks import check_memory, nodes_of_ranks
from shardwright.costmodel.evaluate import costs_of_groups, estimate_plan, simulate_plan
from shardwright.costmodel.op_times.between_groups import ReplicaExchange
from shardwright.costmodel.op_times.choice import op_times
from shardwright.costmodel.op_times.datasheet import CatalogTimes
from shardwright.specs.candidates import replicate_group
from shardwright.specs.cluster import ClusterSpec, Link, NodeGroup
from shardwright.specs.mesh import Mesh
from shardwright.specs.plan import LayerRun, Plan, Replicas, Stage
from shardwright.specs.training import TrainingSpec
from tests.specs.test_candidates import candidates

LLAMA = load_model("llama-3.1-8b")
TRAINING = TrainingSpec(seq_len=4096, global_batch=64)
MIXED = load_cluster("h100-sxm:16+a100-sxm-80gb:16")
WHOLE = load_cluster("h100-sxm:32")
HALF = WHOLE.groups[0].model_copy(update={"nodes": 2})
ALIKE = HALF.model_copy(update={"host": HALF.host.model_copy(update={"cores": HALF.host.cores + 1})})
APART = ClusterSpec(name="apart", groups=(HALF, ALIKE))
"""Two groups that differ in nothing that counts."""


def stages(*layers: int, zero: int = 1, recompute: str = "none") -> tuple[Stage, ...]:
    return tuple(
        Stage.parse({"layers": [{"count": count, "zero_stage": zero, "recompute": recompute}]}, source="test")
        for count in layers
    )


def plan(*groups: tuple[int, int, int], pp: int = 1, shard: int = 8, tp: int = 1, **changes: object) -> Plan:
    """Replicas (count, micro batch, microbatches) of every group; one group gives a plan of nodes of one kind."""
    held = stages(*[32 // pp] * pp, zero=1 if shard > 1 else 0)
    each = [Replicas(count=c, micro_batch=b, microbatches=m, stages=held) for c, b, m in groups]
    _, micro_batch, microbatches = groups[0]
    values = {
        "mesh": Mesh(pp=pp, dp_replicate=sum(one.count for one in each), dp_shard=shard, tp=tp),
        "micro_batch": micro_batch, "microbatches": microbatches, "stages": held,
        "replicas": tuple(each) if len(each) > 1 else (),
    }  # fmt: skip
    return Plan.parse(values | changes, source="test")


def over(link: Link) -> ClusterSpec:
    return APART.model_copy(update={"between": link})


def ethernet(bytes_per_s: float) -> Link:
    return Link(kind="ethernet", bytes_per_s=bytes_per_s, latency_seconds=0.0)


class TestEqualGroups:
    """Two groups that differ in nothing that counts, and the same plan on all their nodes as one fabric."""

    @pytest.mark.parametrize(("pp", "shard", "tp"), [(1, 16, 1), (2, 4, 2), (2, 2, 4), (1, 8, 2)])
    def test_one_replica_in_each_equals_two_in_one_fabric(self, pp: int, shard: int, tp: int) -> None:
        microbatches = 64 // (2 * shard)
        one = (1, 1, microbatches)
        apart = estimate_plan(LLAMA, APART, TRAINING, plan(one, one, pp=pp, shard=shard, tp=tp))
        whole = estimate_plan(LLAMA, WHOLE, TRAINING, plan((2, 1, microbatches), pp=pp, shard=shard, tp=tp))
        assert apart.step_seconds == pytest.approx(whole.step_seconds, rel=1e-12)
        assert apart.tokens_per_s == pytest.approx(whole.tokens_per_s, rel=1e-12)
        assert (apart.mfu, apart.hfu) == pytest.approx((whole.mfu, whole.hfu), rel=1e-12)
        assert apart.step_seconds_intervals == whole.step_seconds_intervals
        assert [part.total for part in apart.memory] == pytest.approx([part.total for part in whole.memory] * 2)

    @pytest.mark.parametrize("zero", [1, 3])
    def test_experts_are_summed_over_their_own_replicas(self, zero: int) -> None:
        """8 experts' ranks in each replica; dp_shard x ep fold, and an expert has 2 ranks that shard it."""
        model = load_model("qwen3-30b-a3b")
        held = stages(model.layer_count, zero=zero)
        mesh = Mesh(dp_replicate=2, dp_shard=16, ep=8)
        one, two = plan((2, 1, 2), shard=16), plan((1, 1, 2), (1, 1, 2), shard=16)
        each = tuple(group.model_copy(update={"stages": held}) for group in two.replicas)
        apart = estimate_plan(
            model, APART, TRAINING, two.model_copy(update={"mesh": mesh, "stages": held, "replicas": each})
        )
        whole = estimate_plan(model, WHOLE, TRAINING, one.model_copy(update={"mesh": mesh, "stages": held}))
        assert apart.step_seconds == pytest.approx(whole.step_seconds, rel=1e-12)

    def test_adapters_alone_are_summed(self) -> None:
        training = TrainingSpec.parse({**dict(TRAINING), "trainable": "lora:r=16,targets=attention"}, source="test")
        one = (1, 1, 2)
        apart = estimate_plan(LLAMA, over(ethernet(1e9)), training, plan(one, one, shard=16))
        every = estimate_plan(LLAMA, over(ethernet(1e9)), TRAINING, plan(one, one, shard=16))
        assert 0 < apart.step.data_parallel < every.step.data_parallel / 10
        fabric = estimate_plan(LLAMA, APART, training, plan(one, one, shard=16)).step_seconds
        whole = estimate_plan(LLAMA, WHOLE, training, plan((2, 1, 2), shard=16)).step_seconds
        assert fabric == pytest.approx(whole, rel=1e-12)

    @pytest.mark.parametrize(("count", "shard"), [(2, 8), (4, 4), (8, 2), (16, 1)])
    def test_several_in_each_are_no_slower_than_in_one_fabric(self, count: int, shard: int) -> None:
        """The two levels may be a little faster than one collective, and never slower."""
        microbatches = 64 // (2 * count * shard)
        each = (count, 1, microbatches)
        apart = estimate_plan(LLAMA, APART, TRAINING, plan(each, each, shard=shard)).step_seconds
        whole = estimate_plan(LLAMA, WHOLE, TRAINING, plan((2 * count, 1, microbatches), shard=shard)).step_seconds
        assert 0.99 * whole < apart <= whole * (1 + 1e-12)

    def test_a_slow_link_between_them_shows(self) -> None:
        """The control: the same plan over 1 GB/s. 8.03 G fp32 gradients over 16 ranks are 2.0 GB from each, 8 of them through the link of
        a node: 16 s. A last backward hides little of it."""
        one = (1, 1, 2)
        fast, slow = (
            estimate_plan(LLAMA, cluster, TRAINING, plan(one, one, shard=16))
            for cluster in (APART, over(ethernet(1e9)))
        )
        least = 8.03e9 * 4 / 16 * 8 / 1e9
        assert 0.9 * least < slow.step.data_parallel < 2 * least
        assert slow.step_seconds > 5 * fast.step_seconds

    def test_half_the_rate_takes_twice_as_long(self) -> None:
        one = (1, 1, 2)
        slow, fast = (
            estimate_plan(LLAMA, over(ethernet(rate)), TRAINING, plan(one, one, shard=16)).step.data_parallel
            for rate in (0.5e9, 1e9)
        )
        assert slow == pytest.approx(2 * fast, rel=0.1)


class TestUnlikeGroups:
    def test_the_step_is_that_of_the_slowest(self) -> None:
        """Of A100 with as many microbatches as H100, and of H100 with far more."""
        even, uneven = plan((2, 1, 2), (2, 1, 2)), plan((2, 1, 3), (2, 1, 1))
        training = TRAINING
        for one, slowest in ((even, 1), (uneven, 0)):
            each = [costs.estimate().step_seconds for costs in costs_of_groups(LLAMA, MIXED, training, one)]
            assert int(np.argmax(each)) == slowest
            assert estimate_plan(LLAMA, MIXED, training, one).step_seconds == max(each)

    def test_a_groups_step_does_not_depend_on_the_batch_and_stages_of_the_other(self) -> None:
        """The search for the best split of the batch rests on it."""
        first, more = plan((2, 1, 3), (2, 1, 1)), plan((2, 1, 3), (2, 2, 4))
        other = first.replicas[1].model_copy(update={"stages": stages(32, recompute="full")})
        recomputing = first.model_copy(update={"replicas": (first.replicas[0], other)})
        steps = []
        for one in (first, more, recomputing):
            training = TRAINING.model_copy(update={"global_batch": one.global_batch})
            steps.append(costs_of_groups(LLAMA, MIXED, training, one)[0].estimate().step_seconds)
        assert steps[1:] == pytest.approx(steps[:1] * 2, rel=1e-12)

    @pytest.mark.parametrize("schedule", ["1f1b", "gpipe"])
    @pytest.mark.parametrize(("pp", "shard", "tp"), [(1, 8, 1), (2, 4, 1), (4, 1, 2), (8, 1, 1)])
    def test_more_microbatches_are_never_faster_and_need_no_less_memory(
        self, pp: int, shard: int, tp: int, schedule: str
    ) -> None:
        """So does this: the step of a group rises with its microbatches."""
        steps, peaks = [], []
        for microbatches in range(1, 13):
            one = plan((2, 1, microbatches), (2, 1, 1), pp=pp, shard=shard, tp=tp, schedule=schedule)
            training = TRAINING.model_copy(update={"global_batch": one.global_batch})
            found = costs_of_groups(LLAMA, MIXED, training, one)[0].estimate()
            steps.append(found.step_seconds)
            peaks.append(found.peak_memory_bytes)
        assert steps == sorted(steps)
        assert peaks == sorted(peaks)

    def test_compute_of_each_group_is_that_on_a_cluster_of_its_own(self) -> None:
        one = plan((2, 1, 3), (2, 1, 1))
        for index, costs in enumerate(costs_of_groups(LLAMA, MIXED, TRAINING, one)):
            own = one.of_group(index)
            alone = TRAINING.model_copy(update={"global_batch": own.global_batch})
            there = estimate_plan(LLAMA, MIXED.alone(index), alone, own)
            assert costs.estimate().step.compute == pytest.approx(there.step.compute, rel=1e-12)

    @pytest.mark.parametrize("pp", [1, 2, 4])
    def test_the_estimate_equals_the_simulation(self, pp: int) -> None:
        one = plan((2, 1, 6), (2, 1, 2), pp=pp, shard=8 // pp)
        training = TRAINING.model_copy(update={"global_batch": one.global_batch})
        timeline = simulate_plan(LLAMA, MIXED, training, one)
        assert timeline.step_seconds == pytest.approx(estimate_plan(LLAMA, MIXED, training, one).step_seconds, rel=1e-9)
        assert (timeline.pp, timeline.groups, len(timeline.memory)) == (2 * pp, 2, 2 * pp)

    def test_the_share_of_peak_counts_the_peaks_of_both(self) -> None:
        found = estimate_plan(LLAMA, MIXED, TRAINING, plan((2, 1, 3), (2, 1, 1)))
        peaks = sum(16 * group.device.peak_flops_per_s["bf16"] for group in MIXED.groups)
        assert found.mfu == pytest.approx(found.model_flops / (found.step_seconds * peaks))
        assert found.tokens_per_s == pytest.approx(64 * 4096 / found.step_seconds)

    def test_each_group_is_held_against_its_own_devices(self) -> None:
        one = plan((1, 1, 5), (1, 1, 3), tp=2)
        small = MIXED.groups[1].device.model_copy(update={"memory_bytes": 16e9})
        cluster = MIXED.model_copy(
            update={"groups": (MIXED.groups[0], MIXED.groups[1].model_copy(update={"device": small}))}
        )
        found = estimate_plan(LLAMA, cluster, TRAINING, one)
        assert [node.device.name for node in nodes_of_ranks(found, cluster)] == ["h100-sxm", "a100-sxm-80gb"]
        with pytest.raises(InfeasibleError, match=r"pipeline rank 0 of group 2 needs .* and a100-sxm-80gb has"):
            check_memory(found, cluster)
        check_memory(found, MIXED)


def exchange(*devices: int, link: Link | None = None, node: NodeGroup = HALF) -> ReplicaExchange:
    """Replicas of one device each in groups of H100 nodes."""
    times = [op_times(ClusterSpec(name="one", groups=(node,)), TRAINING)] * len(devices)
    return ReplicaExchange.of(times, link, devices, 0, CatalogTimes(node, TRAINING))


class TestExchange:
    """10 GB of gradients among replicas whose ranks fill nodes of 8."""

    def seconds(self, *devices: int, shards: int, link: Link | None = None) -> float:
        one = candidates(dp_replicate=sum(devices) // shards, dp_shard=shards, zero_stage=1)
        found = exchange(*devices, link=link).all_reduce_seconds(np.full((1, 1), 10e9), one, replicate_group)
        return float(found[0, 0])

    def test_two_levels_by_hand(self) -> None:
        """8 shards a node, so each of 2 groups has 2 replicas in 2 nodes. Over a link of 1 GB/s for each node the exchange of 10 GB / 2
        from 8 ranks counts: 2 x 1/2 x 5 GB x 8 / 1 GB/s = 40 s. One collective would take 2 x 3/4 x 10 x 8 = 120 s."""
        found = self.seconds(16, 16, shards=8, link=ethernet(1e9))
        assert 40 < found < 2 * 40

    def test_groups_of_unequal_size_take_as_long_as_the_smaller(self) -> None:
        """The group with one replica has whole shards to exchange: 10 GB from 8 ranks, 80 s."""
        found = self.seconds(8, 24, shards=8, link=ethernet(1e9))
        assert 80 < found < 2 * 80
        assert found > 1.9 * self.seconds(16, 16, shards=8, link=ethernet(1e9))

    def test_a_link_of_each_device_is_not_shared(self) -> None:
        own = Link(kind="pcie", bytes_per_s=1e9, latency_seconds=0.0)
        assert self.seconds(8, 8, shards=8, link=own) < self.seconds(8, 8, shards=8, link=ethernet(1e9)) / 4

    def test_equal_groups_on_one_fabric_take_one_collective_at_most(self) -> None:
        one = candidates(dp_replicate=4, dp_shard=8, zero_stage=1)
        whole = op_times(WHOLE, TRAINING)
        group = replicate_group(one, whole.node)
        assert self.seconds(16, 16, shards=8) <= float(whole.collective_seconds("all_reduce", 10e9, group)[0])

    def test_three_groups(self) -> None:
        """2 x 2/3 x 10 GB x 8 / 1 GB/s = 107 s."""
        found = self.seconds(8, 8, 8, shards=8, link=ethernet(1e9))
        assert 106 < found < 2 * 106


class TestRefusals:
    def test_nodes_of_one_kind(self) -> None:
        with pytest.raises(SpecError, match="the plan has replicas in 2 groups and h100-sxm:32 has nodes of one kind"):
            estimate_plan(LLAMA, WHOLE, TRAINING, plan((1, 1, 2), (1, 1, 2), shard=16))

    def test_another_number_of_groups(self) -> None:
        three = load_cluster("h100-sxm:16+a100-sxm-80gb:16+h200-sxm:16")
        with pytest.raises(SpecError, match=r"replicas in 2 groups and .* has 3 groups; give an item for each"):
            estimate_plan(LLAMA, three, TRAINING, plan((1, 1, 2), (1, 1, 2), shard=16))

    def test_the_batch(self) -> None:
        with pytest.raises(
            SpecError, match=r"1 replicas x dp_shard 16 x micro batch 1 x 3 .* is 80 sequences, the global"
        ):
            estimate_plan(LLAMA, MIXED, TRAINING, plan((1, 1, 3), (1, 1, 2), shard=16))

    def test_more_replicas_than_a_group_has_devices_for(self) -> None:
        with pytest.raises(SpecError, match=r"needs 32 ranks .* and 16 a100-sxm-80gb of .* has 16 devices"):
            estimate_plan(LLAMA, MIXED, TRAINING, plan((1, 1, 2), (2, 1, 1), shard=16))

    def test_replicas_that_do_not_add_up(self) -> None:
        one = plan((1, 1, 2), (1, 1, 2))
        mesh = one.mesh.model_copy(update={"dp_replicate": 3})
        with pytest.raises(
            SpecError, match=r"replicas count 1 \+ 1 = 2, and mesh.dp_replicate is 3; set dp_replicate to 2"
        ):
            Plan.parse(dict(one) | {"mesh": mesh}, source="test")

    def test_a_batch_that_is_not_that_of_the_first(self) -> None:
        with pytest.raises(SpecError, match="microbatches differs from that of the first of replicas"):
            plan((1, 1, 2), (1, 1, 2), microbatches=3)

    def test_unlike_zero_stages(self) -> None:
        one = plan((1, 1, 2), (1, 1, 2))
        other = one.replicas[1].model_copy(update={"stages": (Stage(layers=(LayerRun(count=32, zero_stage=3),)),)})
        with pytest.raises(SpecError, match="replicas have ZeRO stages 1, 3; give all groups one"):
            Plan.parse(dict(one) | {"replicas": (one.replicas[0], other)}, source="test")

    def test_a_schedule_that_mixed_clusters_do_not_have(self) -> None:
        with pytest.raises(SpecError, match=r"schedule zb-h1 is not available on .* a mixed cluster"):
            estimate_plan(LLAMA, MIXED, TRAINING, plan((1, 1, 4), (1, 1, 4), pp=2, shard=8, schedule="zb-h1"))
