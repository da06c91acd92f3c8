"""Bytes of frozen weights and the traffic of restoring them."""

import pytest

from shardwright.costmodel.layers.frozen.base_format import BaseWeights, stored_bytes
from shardwright.costmodel.layers.operators import Matmul
from shardwright.specs.training import TrainingSpec

LINEARS = [Matmul(10, 1024, 2048, modules=("up_proj",)), Matmul(10, 1024, 8)]


def weights(text: str, **options: str) -> BaseWeights:
    training = TrainingSpec.parse({"seq_len": 8, "global_batch": 1, "trainable": text, **options}, source="test")
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


class TestNormsInFp32:
    """After PEFT's prepare_model_for_kbit_training what comes from norms is in fp32, and each quantised linear casts it."""

    def test_an_input_is_cast_and_its_result_is_cast_back(self) -> None:
        """Four bytes are read and two written, or the other way round, for 1024 inputs and 2048 outputs of ten tokens."""
        found = weights("qlora", stack="hf-kbit")
        cast = 10 * 6 * (1024 + 2048)
        assert found.forward_bytes - weights("qlora").forward_bytes == pytest.approx(cast)
        assert found.backward_bytes - weights("qlora").backward_bytes == pytest.approx(cast)

    def test_queries_keys_and_values_are_cast_for_the_kernel_and_the_output_projection_reads_what_it_wrote(
        self,
    ) -> None:
        training = weights("qlora", stack="hf-kbit").training
        query, output = (Matmul(10, 64, 32, modules=(name,)) for name in ("q_proj", "o_proj"))
        plain = weights("qlora").training
        added = [
            float(BaseWeights(training, [linear]).forward_bytes - BaseWeights(plain, [linear]).forward_bytes)
            for linear in (query, output)
        ]
        assert added == pytest.approx([10 * 6 * (64 + 2 * 32), 0.0])

    @pytest.mark.parametrize(
        ("text", "stack", "element"),
        [
            ("qlora", "hf-kbit", 4),
            ("lora:base=int8", "hf-kbit", 4),
            ("lora:base=gptq", "hf-kbit", 2),
            ("lora", "hf-kbit", 2),
            ("qlora", "hf-trainer", 2),
        ],
    )
    def test_the_stream_is_wide_beside_weights_of_bitsandbytes_alone(self, text: str, stack: str, element: int) -> None:
        """PEFT leaves GPTQ's norms as they are (utils/other.py, prepare_model_for_kbit_training)."""
        assert weights(text, stack=stack).training.stream_bytes_per_element == element
