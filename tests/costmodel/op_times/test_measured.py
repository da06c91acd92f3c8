"""Times from a made-up profile, each told from the catalog's by its rule."""

from typing import ClassVar

import numpy as np
import pytest

from shardwright.costmodel.evaluate import estimate_plan
from shardwright.costmodel.op_times.choice import op_times
from shardwright.costmodel.op_times.constants import CALIBRATED
from shardwright.costmodel.op_times.datasheet import CatalogTimes
from shardwright.costmodel.op_times.measured import ProfileTimes
from shardwright.specs.cluster import ClusterSpec
from shardwright.specs.mesh import Mesh, RankGroup
from shardwright.specs.plan import LayerRun, Plan, Stage
from shardwright.specs.profile import Figure, Profile
from shardwright.specs.training import Precision, TrainingSpec
from tests.costmodel.fakes import round_cluster, small_model
from tests.costmodel.op_times.made_up_profile import (
    BYTES_PER_S,
    START_SECONDS,
    attention_rule,
    elements_rule,
    made_up_profile,
    matmul_rule,
    series,
)

BF16 = TrainingSpec(seq_len=2048, global_batch=8)
FP32 = TrainingSpec(seq_len=2048, global_batch=8, precision=Precision(compute="fp32"))


def with_profile(profile: Profile | None = None) -> ClusterSpec:
    cluster = round_cluster()
    group = cluster.groups[0].model_copy(update={"profile": profile or made_up_profile()})
    return cluster.model_copy(update={"groups": (group,)})


def times(training: TrainingSpec = BF16, profile: Profile | None = None) -> ProfileTimes:
    found = op_times(with_profile(profile), training)
    assert isinstance(found, ProfileTimes)
    return found


def without(*operations: str) -> Profile:
    whole = made_up_profile()
    return whole.model_copy(update={"series": tuple(s for s in whole.series if s.operation not in operations)})


CATALOG = CatalogTimes(round_cluster().node, BF16)
GROUP = RankGroup(4.0, 1.0, 1.0)


def test_a_cluster_without_a_profile_has_the_catalogs_times() -> None:
    assert op_times(round_cluster(), BF16) == CATALOG
    assert times().basis == "profile"


def test_times_are_of_the_clusters_node() -> None:
    assert op_times(round_cluster(), BF16).node == round_cluster().node
    assert times().node == with_profile().node


@pytest.mark.parametrize(("part", "factor"), [("forward", 1), ("input_gradient", 2), ("weight_gradient", 3)])
def test_each_part_of_a_linear_layer_has_its_own_matmul(part: str, factor: float) -> None:
    seconds = times().matmul_seconds(2048.0, 512.0, 2048.0, part=part)  # type: ignore[arg-type] # a literal
    assert seconds == pytest.approx(factor * matmul_rule(2048, 512, 2048), rel=0.05)


class TestGroups:
    def test_measured(self) -> None:
        seconds = times().matmul_seconds(512.0, 512.0, 2048.0, groups=8)
        assert seconds == pytest.approx(1.5 * matmul_rule(512, 512, 2048, 8), rel=0.05)

    def test_not_measured_are_compared_with_one_matmul_as_the_catalog_does(self) -> None:
        size, rows = (512.0, 512.0, 2048.0), (8 * 512.0, 512.0, 2048.0)
        compared = CATALOG.matmul_seconds(*size, groups=8) / CATALOG.matmul_seconds(*rows)
        seconds = times().matmul_seconds(*size, groups=8, part="input_gradient")
        assert seconds == pytest.approx(float(2 * matmul_rule(*rows) * compared), rel=0.05)


class TestAttention:
    def test_forward(self) -> None:
        flops = 2.0 * 4 * 16 * 2048 * 2049 * 128
        seconds = times().attention_seconds(flops, head_size=128, seq_len=2048, backward=False)
        assert seconds == pytest.approx(attention_rule(4, 16, 16, 2048, 128), rel=0.05)

    def test_backward_is_given_two_and_a_half_times_the_flops(self) -> None:
        flops = 2.5 * 2.0 * 4 * 16 * 2048 * 2049 * 128
        seconds = times().attention_seconds(flops, head_size=128, seq_len=2048, backward=True)
        assert seconds == pytest.approx(3 * attention_rule(4, 16, 16, 2048, 128), rel=0.05)


class TestOperators:
    def test_forward_and_backward(self) -> None:
        forward = times().operator_seconds("eager_rmsnorm", 2.0**22, 1.0)
        backward = times().operator_seconds("eager_rmsnorm", 2.0**22, 1.0, backward=True)
        assert forward == pytest.approx(4 * elements_rule(2**11, 2**11), rel=0.05)
        assert backward == pytest.approx(9 * elements_rule(2**11, 2**11), rel=0.05)

    def test_one_that_was_not_measured_is_a_copy_of_as_many_bytes(self) -> None:
        """16-bit elements, read and written: four bytes each."""
        seconds = times().operator_seconds("dropout", 1.0, 4 * 2.0**22)
        assert seconds == pytest.approx(elements_rule(2**11, 2**11), rel=0.05)

    def test_without_any_copy_the_catalog_decides(self) -> None:
        seconds = times(profile=without("copy")).operator_seconds("dropout", 1.0, 1e9)
        assert seconds == CATALOG.memory_bound_seconds(1e9)

    def test_an_update_is_told_by_its_parameters(self) -> None:
        assert times().operator_seconds("adamw", 2.0**24, 1.0) == pytest.approx(elements_rule(2**24, 5), rel=0.05)

    def test_nothing_takes_no_time(self) -> None:
        found = times().operator_seconds("copy", np.array([0.0, 1024.0]), np.array([0.0, 4096.0]))
        assert found[0] == 0
        assert found[1] > 0


class TestLaunches:
    def test_a_gpu_waits_for_its_host(self) -> None:
        assert times().with_launches_seconds(1e-4, 50) == pytest.approx(50 * 8e-6)
        assert times().with_launches_seconds(1.0, 50) == 1.0

    def test_a_cpus_operators_were_measured_with_their_dispatch(self) -> None:
        assert times(profile=made_up_profile(kind="cpu")).with_launches_seconds(1e-4, 50) == pytest.approx(1e-4)


class TestCollectives:
    @pytest.mark.parametrize("size_bytes", [2.0**15, 2.0**27])
    def test_measured_groups(self, size_bytes: float) -> None:
        seconds = times().collective_seconds("all_reduce", size_bytes, GROUP)
        assert seconds == pytest.approx(1e-5 + size_bytes / 1e9, rel=0.1)

    def test_a_group_far_from_all_measured_is_the_catalogs(self) -> None:
        far = RankGroup(4.0, 4096.0, 1.0)
        seconds = times().collective_seconds("all_reduce", 2.0**27, far)
        assert seconds == pytest.approx(float(CATALOG.collective_seconds("all_reduce", 2.0**27, far)), rel=0.05)

    def test_one_that_was_not_measured_is_the_catalogs(self) -> None:
        assert times().collective_seconds("broadcast", 1e6, GROUP) == CATALOG.collective_seconds(
            "broadcast", 1e6, GROUP
        )

    def test_one_rank_sends_nothing(self) -> None:
        assert times().collective_seconds("all_reduce", 1e6, RankGroup(1.0, 1.0, 1.0)) == 0

    def test_what_compute_loses_beside_one(self) -> None:
        slowed = made_up_profile().model_copy(
            update={"figures": {"compute_slowdown_beside_collective": Figure(value=0.25, unit="share", meaning="lost")}}
        )
        assert times(profile=slowed).constants.collective_multiprocessors == 25  # of 100
        assert times(profile=slowed).constants.copy_multiprocessors == CALIBRATED.copy_multiprocessors
        assert times().constants == CALIBRATED

    def test_what_compute_loses_beside_a_copy(self) -> None:
        """As one card alone measures it."""
        slowed = made_up_profile().model_copy(
            update={"figures": {"compute_slowdown_beside_copy": Figure(value=0.05, unit="share", meaning="lost")}}
        )
        constants = times(profile=slowed).constants
        assert (constants.collective_multiprocessors, constants.copy_multiprocessors) == (20, 5)


def test_host_copies_are_the_mean_of_both_ways() -> None:
    assert times().host_copy_seconds(2.0**26) == pytest.approx(START_SECONDS + 2 * 2.0**26 / BYTES_PER_S, rel=0.05)
    assert times().host_copy_seconds(0.0) == 0


def test_a_cpus_copies_are_not_page_locked() -> None:
    pageable = series(
        "host_copy", "to_host-pageable", None, ("size_bytes",), [(2.0**20,), (2.0**26,)], lambda size: size / 1e9
    )
    profile = made_up_profile(kind="cpu")
    with_it = profile.model_copy(update={"series": (*profile.series, pageable)})
    assert times(profile=with_it).host_copy_seconds(2.0**26) == pytest.approx(2.0**26 / 1e9, rel=0.05)


def test_an_update_on_the_host_is_by_the_rank_s_threads_and_clips_besides() -> None:
    """Twice as many threads, half the time; three passes of clipping for the seven of AdamW."""
    sizes = [(elements, threads) for elements in (2.0**20, 2.0**24) for threads in (4.0, 8.0, 16.0)]
    host = series(
        "host_adamw",
        "fused",
        "fp32",
        ("elements", "threads"),
        sizes,
        lambda elements, threads: elements / (1e8 * threads),
    )
    profile = made_up_profile()
    with_it = profile.model_copy(update={"series": (*profile.series, host)})  # of a rank with 8 threads
    seconds = times(profile=with_it).host_update_seconds(2.0**24, 1.0)
    assert seconds == pytest.approx(2.0**24 / 8e8 * 10 / 7, rel=0.05)
    assert times().host_update_seconds(2.0**24, 1e9) == CATALOG.host_update_seconds(2.0**24, 1e9)


class TestSharding:
    figures: ClassVar = {
        "sharding_unit_pass_seconds": 1e-4,
        "sharding_unit_seconds": 3e-4,
        "sharding_seconds_per_byte": 2e-10,
        "accumulation_seconds_per_byte": 5e-11,
    }

    @property
    def profile(self) -> Profile:
        figures = {name: Figure(value=value, unit="s", meaning=name) for name, value in self.figures.items()}
        return made_up_profile(kind="cpu").model_copy(update={"figures": figures})

    def test_hooks_copies_and_accumulation(self) -> None:
        """Four microbatches, gradients reduced in the last one alone, then in each."""
        found = times(profile=self.profile)
        once = found.sharding_seconds(1e8, 4.0, 1.0)
        assert once == pytest.approx(4 * 1e-4 + 3e-4 + 1e8 * (2e-10 + 3 * 5e-11))
        assert found.sharding_seconds(1e8, 4.0, 4.0) == pytest.approx(4 * (1e-4 + 3e-4 + 1e8 * 2e-10))

    def test_the_compute_format_has_its_own_where_it_was_measured(self) -> None:
        figure = Figure(value=7e-10, unit="s/byte", meaning="with casts")
        both = self.profile.model_copy(
            update={"figures": {**self.profile.figures, "sharding_seconds_per_byte_bf16": figure}}
        )
        plain, cast = (times(training, both).sharding_seconds(1e9, 1.0, 1.0) for training in (FP32, BF16))
        assert cast - plain == pytest.approx(1e9 * (7e-10 - 2e-10))

    def test_without_the_figures_nothing_is_added(self) -> None:
        assert times().sharding_seconds(1e8, 4.0, 1.0) == 0

    @pytest.mark.parametrize(("zero_stage", "repeats"), [(0, 1), (1, 1), (2, 4), (3, 4)])
    def test_each_layer_and_both_ends_are_wrapped(self, zero_stage: int, repeats: int) -> None:
        """ZeRO-2 and -3 reduce the gradients of every microbatch; other software has its own way."""
        model, shards = small_model(layers=2), 2 if zero_stage else 1
        layers = LayerRun(count=2, zero_stage=zero_stage)
        plan = Plan(
            mesh=Mesh(dp_shard=shards), micro_batch=2, microbatches=4, stages=(Stage(layers=(layers,)),)
        )  # fmt: skip

        def exposed(stack: str, profile: Profile) -> float:
            training = TrainingSpec(seq_len=256, global_batch=8 * shards, stack=stack)
            group = with_profile(profile).groups[0].model_copy(update={"nodes": 1, "devices_per_node": shards})
            cluster = round_cluster().model_copy(update={"groups": (group,)})
            return estimate_plan(model, cluster, training, plan).step.data_parallel

        def added(stack: str) -> float:
            return exposed(stack, self.profile) - exposed(stack, made_up_profile(kind="cpu"))

        hooks = 4 * (4 * 1e-4 + repeats * 3e-4)
        per_byte = repeats * 2e-10 + (4 - repeats) * 5e-11
        assert added("shardwright") == pytest.approx(hooks + 4 * model.parameter_count * per_byte)
        assert added("fsdp") == 0


class TestAnotherFormat:
    """The profile was measured in bf16; a training in fp32 finds nothing of it but what has no format."""

    catalog = CatalogTimes(round_cluster().node, FP32)

    def test_falls_back_to_the_catalog(self) -> None:
        found = times(FP32)
        assert found.matmul_seconds(512, 512, 512) == self.catalog.matmul_seconds(512, 512, 512)
        flops = {"head_size": 64, "seq_len": 512, "backward": False}
        assert found.attention_seconds(1e9, **flops) == self.catalog.attention_seconds(1e9, **flops)  # type: ignore[arg-type]
        assert found.operator_seconds("copy", 1e6, 8e6) == self.catalog.memory_bound_seconds(8e6)

    def test_keeps_what_has_no_format(self) -> None:
        assert times(FP32).host_copy_seconds(2.0**26) != self.catalog.host_copy_seconds(2.0**26)


def test_in_tf32_only_matmuls_are_other_than_in_fp32() -> None:
    training = TrainingSpec(seq_len=2048, global_batch=8, precision=Precision(compute="tf32"))
    group = with_profile(made_up_profile(format="fp32")).groups[0]
    device = group.device.model_copy(update={"peak_flops_per_s": {**group.device.peak_flops_per_s, "tf32": 50e12}})
    cluster = round_cluster().model_copy(update={"groups": (group.model_copy(update={"device": device}),)})
    found, catalog = op_times(cluster, training), CatalogTimes(cluster.node, training)
    assert found.operator_seconds("copy", 2.0**22, 1.0) == pytest.approx(elements_rule(2**11, 2**11), rel=0.05)
    flops = 2.0 * 4 * 16 * 2048 * 2049 * 128
    attention = found.attention_seconds(flops, head_size=128, seq_len=2048, backward=False)
    assert attention == pytest.approx(attention_rule(4, 16, 16, 2048, 128), rel=0.05)
    assert found.matmul_seconds(512, 512, 512) == catalog.matmul_seconds(512, 512, 512)


def test_a_slower_machine_makes_a_slower_step() -> None:
    """Everything measured takes twice as long: so does the step, but for what is not measured."""
    model = small_model(layers=2, hidden=1024)
    training = TrainingSpec(seq_len=2048, global_batch=2)
    plan = Plan(
        mesh=Mesh(), micro_batch=2, microbatches=1, stages=(Stage(layers=(LayerRun(count=2),)),)
    )  # fmt: skip
    one = round_cluster(nodes=1, devices_per_node=1)

    def step_seconds(slower: float) -> float:
        group = one.groups[0].model_copy(update={"profile": made_up_profile(slower=slower)})
        return estimate_plan(model, one.model_copy(update={"groups": (group,)}), training, plan).step_seconds

    assert 1.7 < step_seconds(2.0) / step_seconds(1.0) < 2.01
