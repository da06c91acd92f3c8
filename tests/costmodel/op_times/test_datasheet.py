"""Rooflines, efficiency curves and collectives from data sheets."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from shardwright.base.errors import SpecError
from shardwright.catalog.cluster_file import load_cluster
from shardwright.costmodel.op_times.choice import op_times
from shardwright.costmodel.op_times.collectives.gloo import gloo_seconds
from shardwright.costmodel.op_times.collectives.nccl import Collectives
from shardwright.costmodel.op_times.constants import CALIBRATED
from shardwright.costmodel.op_times.datasheet import CatalogTimes
from shardwright.costmodel.op_times.operand_formats import OPERANDS
from shardwright.costmodel.op_times.protocol import MatmulPart
from shardwright.specs.mesh import RankGroup
from shardwright.specs.training import Precision, TrainingSpec
from tests.costmodel.fakes import round_cluster

BF16 = TrainingSpec(seq_len=1024, global_batch=8)


def times(**cluster: int) -> CatalogTimes:
    return CatalogTimes(round_cluster(**cluster).node, BF16)  # type: ignore[arg-type] # counts only


class TestMatmul:
    def test_a_large_one_runs_near_the_reachable_rate(self) -> None:
        seconds = times().matmul_seconds(25600, 8192, 25600)
        rate = 2 * 25600 * 8192 * 25600 / seconds
        assert 0.97 * CALIBRATED.matmul_fraction * 100e12 < rate <= CALIBRATED.matmul_fraction * 100e12

    def test_a_thin_one_is_bound_by_memory(self) -> None:
        moved = 2 * (8 * 8192 + 8192 * 8192 + 8 * 8192)
        assert times().matmul_seconds(8, 8192, 8192) >= moved / (1e12 * CALIBRATED.memory_fraction)

    def test_one_more_tile_than_the_card_has_units_costs_a_wave(self) -> None:
        """100 units: 10 x 10 tiles of 256 x 128 are one wave, 10 x 10 + 1 rows of tiles more than one."""
        full = times().matmul_seconds(2560, 4096, 1280)
        assert times().matmul_seconds(2560 + 256, 4096, 1280) > 1.2 * full

    def test_an_odd_vocabulary_is_slow(self) -> None:
        odd, padded = times().matmul_seconds(8192, 4096, 50257), times().matmul_seconds(8192, 4096, 50304)
        assert odd / padded == pytest.approx(CALIBRATED.misaligned_slowdown, rel=0.05)

    def test_a_part_that_keeps_its_clock_is_not_slowed(self) -> None:
        """An H20 does a sixth of an H100's work at more than half of its power."""
        h20, h100 = (CatalogTimes(load_cluster(f"{name}:8").node, BF16) for name in ("h20-sxm", "h100-sxm"))
        shares = [
            2 * 8192**3 / times.matmul_seconds(8192, 8192, 8192) / times.device.peak_flops_per_s["bf16"]
            for times in (h20, h100)
        ]
        assert shares[0] > 1.1 * shares[1]

    def test_a_lower_power_limit_slows_it_by_the_cube_root(self, tmp_path: Path) -> None:
        """A user states the limit of a card that is otherwise an H100."""
        seconds = []
        for watts in (700, 350):
            file = tmp_path / "cluster.toml"
            file.write_text(f'device = {{ like = "h100-sxm", power_watts = {watts} }}\nnodes = 1\n')
            seconds.append(CatalogTimes(load_cluster(str(file)).node, BF16).matmul_seconds(8192, 8192, 8192))
        assert seconds[1] / seconds[0] == pytest.approx(2 ** (1 / 3))

    def test_any_number_of_tokens_is_aligned(self) -> None:
        """Experts get 1000.5 tokens on average; only the weights' sizes count."""
        expert = times().matmul_seconds(1000.5, 4096, 1024, groups=8)
        assert expert == pytest.approx(times().matmul_seconds(1000, 4096, 1024, groups=8), rel=0.01)
        gradient = times().matmul_seconds(4096, 1000.5, 1024, groups=8, part="weight_gradient")
        assert gradient == pytest.approx(
            times().matmul_seconds(4096, 1000, 1024, groups=8, part="weight_gradient"), rel=0.01
        )

    @pytest.mark.parametrize(
        ("shape", "part"),
        [((2048, 100, 2048), "forward"), ((2048, 2048, 100), "input_gradient"), ((100, 2048, 2048), "weight_gradient")],
    )
    def test_odd_heads_of_unfused_attention_run_without_matrix_units(
        self, shape: tuple[int, int, int], part: MatmulPart
    ) -> None:
        """100 is no multiple of 8, 104 is: four times as slow, as 312 TFLOP/s are to 78."""
        odd = times().matmul_seconds(*shape, groups=32, part=part)
        even = times().matmul_seconds(*(104 if size == 100 else size for size in shape), groups=32, part=part)
        assert odd / even == pytest.approx(4, rel=0.1)

    def test_groups_share_the_card(self) -> None:
        apart = 8 * times().matmul_seconds(128, 4096, 1024)
        assert times().matmul_seconds(128, 4096, 1024, groups=8) < apart

    def test_a_format_that_the_device_lacks_is_refused(self) -> None:
        with pytest.raises(SpecError, match="does not compute in bf16; it has"):
            CatalogTimes(load_cluster("v100-sxm-32gb:8").node, BF16)

    def test_a_cpu_runs_at_its_measured_rate(self) -> None:
        cpu = CatalogTimes(
            round_cluster(kind="cpu").node, TrainingSpec(seq_len=8, global_batch=1, precision=Precision(compute="fp32"))
        )
        assert cpu.matmul_seconds(1000, 1000, 1000) == pytest.approx(2e9 / 10e12)


class TestCollective:
    group = RankGroup(ranks_per_node=4, nodes=2, sharing=1)

    def test_gpus_use_nccl(self) -> None:
        expected = Collectives(round_cluster().node, CALIBRATED, CALIBRATED.busy_nic_share).seconds(
            "all_reduce", 1e6, self.group
        )
        assert times().collective_seconds("all_reduce", 1e6, self.group) == expected

    def test_cpus_use_gloo(self) -> None:
        node = round_cluster(kind="cpu").node
        fp32 = TrainingSpec(seq_len=8, global_batch=1, precision=Precision(compute="fp32"))
        seconds = CatalogTimes(node, fp32).collective_seconds("all_reduce", 1e6, self.group)
        assert seconds == gloo_seconds("all_reduce", 1e6, self.group, node)

    @pytest.mark.parametrize("kind", ["gpu", "cpu"])
    def test_an_oversubscribed_fabric_divides_the_rate_between_nodes(self, kind: Literal["gpu", "cpu"]) -> None:
        full, between = round_cluster(kind=kind), RankGroup(ranks_per_node=1, nodes=2, sharing=4)
        thin = full.model_copy(update={"oversubscription": 3.0})
        slow, fast = (op_times(each, BF16).collective_seconds("send", 1e13, between) for each in (thin, full))
        assert slow / fast == pytest.approx(3, rel=1e-3)


def test_a_gpu_is_bound_by_launches_and_a_cpu_adds_them() -> None:
    gpu = times()
    assert gpu.with_launches_seconds(1e-6, 30) == pytest.approx(30 * CALIBRATED.host_seconds_per_kernel)
    assert gpu.with_launches_seconds(1.0, 30) == 1.0
    fp32 = TrainingSpec(seq_len=8, global_batch=1, precision=Precision(compute="fp32"))
    assert CatalogTimes(round_cluster(kind="cpu").node, fp32).with_launches_seconds(1.0, 30) == pytest.approx(1.00003)


def test_every_time_broadcasts() -> None:
    sizes = np.array([[1e3], [1e6]])
    groups = RankGroup(np.array([1.0, 4.0]), np.array([1.0, 2.0]), np.array([1.0, 1.0]))
    assert times().collective_seconds("all_gather", sizes, groups).shape == (2, 2)
    assert times().matmul_seconds(sizes, 64, np.array([64.0, 128.0])).shape == (2, 2)


class TestLowPrecision:
    def test_a_large_matmul_runs_at_the_peak_and_share_of_its_format(self) -> None:
        h100 = CatalogTimes(load_cluster("h100-sxm:8").node, TrainingSpec(seq_len=8, global_batch=8))
        size = (16384, 16384, 16896)
        half = float(CALIBRATED.matmul_k_half)
        ratio = h100.matmul_seconds(*size) / h100.matmul_seconds(*size, low="fp8")
        deep = (16384 + half) / (16384 + 2 * half)  # a step over k reads twice as many elements of a byte
        clocks = h100.device.matmul_clock("fp8") / h100.device.matmul_clock("bf16")
        assert clocks == pytest.approx((1 / (2 * 0.257 / 0.36)) ** (1 / 3), rel=1e-3)
        assert ratio == pytest.approx(1978.9 / 989.4 * clocks * deep)

    def test_scales_of_rows_take_a_slower_kernel(self) -> None:
        """PyTorch's issue 147971: 90% to 100% of the rate with one scale."""
        h100 = CatalogTimes(load_cluster("h100-sxm:8").node, TrainingSpec(seq_len=8, global_batch=8))
        size = (16384, 16384, 16896)
        one, rows = (h100.matmul_seconds(*size, low=low) for low in ("fp8", "fp8-rowwise"))
        assert one / rows == pytest.approx(0.95)

    def test_a_thin_one_reads_half_the_bytes(self) -> None:
        thin = (8, 8192, 8192)
        moved = 1 * (8 * 8192 + 8192 * 8192) + 2 * 8 * 8192
        h100 = CatalogTimes(load_cluster("h100-sxm:8").node, TrainingSpec(seq_len=8, global_batch=8))
        assert h100.matmul_seconds(*thin, low="fp8") == pytest.approx(h100.memory_bound_seconds(moved))

    @pytest.mark.parametrize(
        ("cluster", "linear", "says"),
        [
            ("a100:8", "fp8", "a100-sxm-80gb has no matmuls in fp8; leave linear out"),
            ("h100:8", "mxfp8", "h100-sxm has no matmuls in mxfp8; it has fp8, fp8-rowwise, fp8-rowwise-gw-hp$"),
            ("h100:8", "nvfp4", "h100-sxm has no matmuls in nvfp4; it has fp8, fp8-rowwise, fp8-rowwise-gw-hp$"),
        ],
    )
    def test_a_device_without_the_format_says_what_it_has(self, cluster: str, linear: str, says: str) -> None:
        precision = Precision.parse({"linear": linear}, source="test")
        with pytest.raises(SpecError, match=says):
            CatalogTimes(load_cluster(cluster).node, TrainingSpec(seq_len=8, global_batch=8, precision=precision))

    def test_blackwell_has_them_all(self) -> None:
        for linear in OPERANDS:
            precision = Precision.parse({"linear": linear}, source="test")
            CatalogTimes(load_cluster("b200:8").node, TrainingSpec(seq_len=8, global_batch=8, precision=precision))

    def test_blackwell_has_a_sustained_rate_of_its_own(self) -> None:
        slower = replace(CALIBRATED, blackwell_matmul_fraction=0.5 * float(CALIBRATED.blackwell_matmul_fraction))
        training, size = TrainingSpec(seq_len=8, global_batch=8), (16384, 16384, 16896)
        for cluster, factor in (("gb200:64", 2.0), ("h100:8", 1.0)):
            node = load_cluster(cluster).node
            usual, slow = (CatalogTimes(node, training, one).matmul_seconds(*size) for one in (CALIBRATED, slower))
            assert slow / usual == pytest.approx(factor)


def test_a_fused_backward_pass_also_moves_its_gradient_sums() -> None:
    """One head of 128 over 1024 causal tokens: 5 matmuls of 2 x 1024 x 512 x 128, and 14 bytes for each element of the queries."""
    node = load_cluster("a100-80gb:8").node
    slow = replace(CALIBRATED, memory_fraction=1e-6)  # so that traffic is nearly all
    times = CatalogTimes(node, TrainingSpec(seq_len=1024, global_batch=1), slow)
    seconds = times.attention_seconds(5 * 2 * 1024 * 512 * 128, head_size=128, seq_len=1024, backward=True)
    assert seconds == pytest.approx(14 * 1024 * 128 / (node.device.memory_bytes_per_s * 1e-6), rel=1e-3)
    forward = times.attention_seconds(2 * 2 * 1024 * 512 * 128, head_size=128, seq_len=1024, backward=False)
    assert forward < seconds / 1e3
