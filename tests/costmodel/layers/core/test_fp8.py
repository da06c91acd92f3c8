"""Fused attention in 8 bits, by hand and beside FlashAttention-3's own figures."""

import numpy as np
import pytest

from shardwright.base.errors import SpecError
from shardwright.catalog.cluster_file import load_cluster
from shardwright.costmodel.layers.all_rows import WorkModel
from shardwright.costmodel.layers.core.fp8 import fp8_attention_cast_bytes, fp8_attention_seconds
from shardwright.costmodel.op_times.choice import op_times
from shardwright.specs.training import TrainingSpec
from tests.costmodel.fakes import small_model
from tests.specs.test_candidates import candidates

H100 = load_cluster("h100-sxm:8").node.device


def training(**choices: object) -> TrainingSpec:
    return TrainingSpec.parse({"seq_len": 8192, "global_batch": 8, "fp8_attention": True} | choices, source="test")


def test_flash_attention_3s_rate_in_8_bits_follows_from_its_rate_in_16() -> None:
    """arXiv 2407.08608, abstract: up to 740 TFLOP/s, and close to 1.2 PFLOP/s."""
    flops = np.array([1e15])
    seconds = fp8_attention_seconds(H100, training(), flops / 740e12, flops, head_size=256, backward=False)
    assert flops / seconds == pytest.approx(1.2e15, rel=0.05)


@pytest.mark.parametrize("backward", [False, True])
def test_exponentials_take_as_long_as_before(backward: bool) -> None:
    """16 a clock of 132 multiprocessors take a second; the other second halves. A backward has 2.5 times the matmuls."""
    flops = np.array([16 * 132 * 1.83e9 * 4 * 64 * (2.5 if backward else 1)])
    found = fp8_attention_seconds(H100, training(), np.array([2.0]), flops, head_size=64, backward=backward)
    assert found == pytest.approx(1 + 1 / 2, rel=1e-3)


def test_only_exponentials_gain_nothing() -> None:
    found = fp8_attention_seconds(H100, training(), np.array([1e-9]), np.array([1e15]), head_size=64, backward=False)
    assert found == pytest.approx(1e-9)


def test_inputs_outputs_and_gradients_are_cast() -> None:
    """4 heads and 2 KV heads of 16: 64 + 2 x 32 in, 64 out, 3 bytes each; and 2 for a scale of the tensor's own values."""
    block = small_model().layer_classes[0]
    cast = [
        fp8_attention_cast_bytes(block, training(stack=stack), backward=backward)
        for stack in ("megatron-core", "automodel")
        for backward in (False, True)
    ]
    assert cast == [3 * 192, 3 * 192, 3 * 192 + 2 * 128, 3 * 192 + 2 * 64]


def test_copies_in_8_bits_are_kept_instead_of_the_inputs() -> None:
    """A byte less of 64 + 64 inputs, and one more of 64 outputs, which a matmul in 16 bits keeps besides."""

    def kept(fp8: bool) -> float:
        cluster = load_cluster("h100-sxm:8")
        job = training(fp8_attention=fp8, stack="megatron-core")
        model = small_model()
        work = WorkModel(model, job, op_times(cluster, job), candidates())
        return float(work.layer(model.layer_classes[0]).activation_bytes_by_policy[0, 0])

    assert kept(False) - kept(True) == 8192 * (128 - 64)


def test_a_device_without_fp8_and_a_kernel_that_is_not_fused_are_one_line() -> None:
    a100 = load_cluster("a100-sxm-80gb:8").node.device
    with pytest.raises(SpecError, match="has no matmuls in fp8; leave attention in fp8 out"):
        fp8_attention_seconds(a100, training(), np.ones(1), np.ones(1), head_size=64, backward=False)
    with pytest.raises(SpecError, match="fp8_attention needs attention 'flash', not 'unfused'"):
        training(attention="unfused")


def test_the_whole_layer_is_faster() -> None:
    cluster, model = load_cluster("h100-sxm:8"), small_model(hidden=4096)
    plain, low = (
        WorkModel(model, job, op_times(cluster, job), candidates()).layer(model.layer_classes[0])
        for job in (training(fp8_attention=fp8, seq_len=65536, stack="megatron-core") for fp8 in (False, True))
    )
    assert low.forward_seconds[0] < plain.forward_seconds[0]
    assert low.backward_seconds[0] < plain.backward_seconds[0]
