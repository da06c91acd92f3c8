"""Bytes of frozen weights and the traffic of restoring them."""

import pytest

from shardwright.costmodel.layers.frozen.base_format import BaseWeights, stored_bytes
from shardwright.costmodel.layers.operators import Matmul
from shardwright.specs.training import TrainingSpec

LINEARS = [Matmul(10, 1024, 2048, modules=("up_proj",)), Matmul(10, 1024, 8)]


def weights(text: str) -> BaseWeights:
    training = TrainingSpec.parse({"seq_len": 8, "global_batch": 1, "trainable": text}, source="test")
    return BaseWeights(training, LINEARS)


@pytest.mark.parametrize(
    ("text", "each"), [("lora", 2.0), ("lora:base=int8", 1.0), ("qlora", 0.5159), ("lora:base=gptq", 0.5195)]
)
def test_bytes_of_a_weight(text: str, each: float) -> None:
    """nf4 with double quantisation takes 4.127 bits (Dettmers et al. 2023, section 3)."""
    found = weights(text)
    assert stored_bytes(found.training) == pytest.approx(each, abs=1e-4)
    linear = 1024 * 2048
    assert found.frozen_bytes(linear + 1000.0) == pytest.approx(each * linear + 2 * 1000, rel=1e-4)  # type: ignore[arg-type]


def test_each_use_reads_the_stored_weight_and_writes_it_in_16_bits() -> None:
    found = weights("qlora")
    assert found.forward_bytes == found.backward_bytes == pytest.approx((0.515869 + 2) * 1024 * 2048, rel=1e-5)
    assert found.kernels == (3, 3)


def test_int8_casts_its_input_and_its_result() -> None:
    found = weights("lora:base=int8")
    assert found.forward_bytes == 10 * (3 * 1024 + 6 * 2048)
    assert found.backward_bytes == 3 * 1024 * 2048


def test_the_compute_format_costs_nothing() -> None:
    found = weights("lora")
    assert found.forward_bytes == found.backward_bytes == 0
    assert found.kernels == (0, 0)
