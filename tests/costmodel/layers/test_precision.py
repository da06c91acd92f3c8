"""Making operands in 8 and 4 bits, by hand."""

import pytest

from shardwright.base.errors import SpecError
from shardwright.costmodel.layers.operators import Matmul
from shardwright.costmodel.layers.precision import operand_bytes
from shardwright.costmodel.op_times.operand_formats import OPERANDS
from shardwright.specs.training import Precision, TrainingSpec

MATMUL = Matmul(m=10, k=20, n=30, groups=2, split="columns")
INPUTS, WEIGHTS, OUTPUTS = 2 * 10 * 20, 2 * 20 * 30, 2 * 10 * 30


def training(linear: str, **choices: str) -> TrainingSpec:
    precision = {"linear": linear, "gather": choices.pop("gather", None)}
    return TrainingSpec.parse({"seq_len": 8, "global_batch": 8, "precision": precision} | choices, source="test")


def made(linear: str, split: int = 1, **choices: str) -> tuple[float, float]:
    forward, backward = operand_bytes(MATMUL, training(linear, **choices), split)
    return float(forward), float(backward)


def test_fp8_scans_casts_and_transposes() -> None:
    """Read for the scale, read again, write a byte: 5. The other layout reads and writes a byte: 2."""
    assert made("fp8") == (5 * (INPUTS + WEIGHTS), 5 * OUTPUTS + 2 * (INPUTS + WEIGHTS + OUTPUTS))


def test_a_compiler_fuses_the_scan_into_the_kernel_before() -> None:
    assert made("fp8", stack="torchtitan") == (3 * (INPUTS + WEIGHTS), 3 * OUTPUTS + 2 * (INPUTS + WEIGHTS + OUTPUTS))
    assert made("mxfp8", stack="torchtitan") == made("mxfp8")


def test_block_scales_need_no_scan_and_are_made_anew_for_the_other_layout() -> None:
    each = 2 + 1 + 1 / 32
    assert made("mxfp8") == pytest.approx((each * (INPUTS + WEIGHTS), each * (OUTPUTS * 2 + INPUTS + WEIGHTS)))


def test_four_bits_have_a_scale_of_the_whole_tensor_above_those_of_blocks() -> None:
    copy = 0.5 + 1 / 16
    expected = ((4 + copy) * (INPUTS + WEIGHTS), (4 + copy) * OUTPUTS + (2 + copy) * (INPUTS + WEIGHTS + OUTPUTS))
    assert made("nvfp4") == pytest.approx(expected)


def test_what_is_gathered_in_fp8_is_cast_before() -> None:
    """The weight on its shard, which is next to nothing, and the input on a quarter of the tokens."""
    forward, backward = made("fp8", 4, gather="fp8")
    assert forward == 5 * INPUTS / 4
    assert backward == 5 * OUTPUTS + 2 * (INPUTS + WEIGHTS + OUTPUTS)


def test_kernels_that_write_operands_themselves_move_nothing_more() -> None:
    assert made("fp8", stack="megatron-core") == (0, 0)


def test_a_gather_in_fp8_needs_matmuls_that_read_it() -> None:
    with pytest.raises(SpecError, match="gather 'fp8' needs linear 'fp8', not None"):
        Precision.parse({"gather": "fp8"}, source="test")


def test_formats_are_the_ones_that_may_be_asked_for() -> None:
    for name in OPERANDS:
        assert Precision.parse({"linear": name}, source="test").linear == name
