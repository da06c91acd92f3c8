"""Making operands in 8 and 4 bits, by hand."""

from dataclasses import replace

import pytest

from shardwright.base.errors import SpecError
from shardwright.costmodel.layers.operators import Matmul
from shardwright.costmodel.layers.precision import operand_bytes, reduces_scales, tensor_parallel_overlap
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
    """No kernel writes a weight, so it is read for its scale. The kernel that casts a gradient writes both layouts; those of an
    input and a weight are made in two passes, from the source each time (torchao/testing/training/roofline_utils.py)."""
    assert made("fp8", stack="torchtitan") == (3 * INPUTS + 5 * WEIGHTS, (3 + 1) * OUTPUTS + 3 * (INPUTS + WEIGHTS))
    assert made("mxfp8", stack="torchtitan") == made("mxfp8")


def test_block_scales_need_no_scan_and_are_made_anew_for_the_other_layout() -> None:
    each = 2 + 1 + 1 / 32
    assert made("mxfp8") == pytest.approx((each * (INPUTS + WEIGHTS), each * (OUTPUTS * 2 + INPUTS + WEIGHTS)))


def test_four_bits_have_a_scale_of_the_whole_tensor_above_those_of_blocks() -> None:
    """For the other layout an input and a gradient are transformed (4 bytes), scanned (2) and cast; a weight is transposed."""
    copy = 0.5 + 1 / 16
    turned = (8 + copy) * (INPUTS + OUTPUTS) + 2 * copy * WEIGHTS
    assert made("nvfp4") == pytest.approx(((4 + copy) * (INPUTS + WEIGHTS), (4 + copy) * OUTPUTS + turned))


def test_what_is_gathered_in_fp8_is_cast_before() -> None:
    """The weight on its shard, which is next to nothing, and the input on a quarter of the tokens."""
    forward, backward = made("fp8", 4, gather="fp8")
    assert forward == 5 * INPUTS / 4
    assert backward == 5 * OUTPUTS + 2 * (INPUTS + WEIGHTS + OUTPUTS)


class TestOneKernelForBothLayouts:
    """Transformer Engine's: read two bytes, write one for each layout. Weights are cast once a step."""

    def test_an_operand_is_read_once(self) -> None:
        assert made("fp8", stack="megatron-core") == (4 * INPUTS, 4 * OUTPUTS)
        each = 2 + 2 * (1 + 1 / 32)
        assert made("mxfp8", stack="megatron-core") == pytest.approx((each * INPUTS, each * OUTPUTS))

    def test_a_scale_of_its_own_values_needs_another_read(self) -> None:
        assert made("fp8", stack="automodel") == (6 * INPUTS, 6 * OUTPUTS)
        each = 2 + 2 + 2 + 2 * (0.5 + 1 / 16)  # in 4 bits one kernel casts, another one transforms and casts
        assert made("nvfp4", stack="megatron-core") == pytest.approx((each * INPUTS, each * OUTPUTS))

    def test_a_norm_writes_a_byte_instead_of_two_which_is_transposed_later(self) -> None:
        normed = replace(MATMUL, after_norm=True)
        forward, backward = operand_bytes(normed, training("fp8", stack="megatron-core"), 1)
        assert (float(forward), float(backward)) == (-INPUTS, 2 * INPUTS + 4 * OUTPUTS)
        forward, _ = operand_bytes(normed, training("fp8", stack="megatron-core"), 4)
        assert float(forward) == -INPUTS / 4  # on a quarter of the tokens
        forward, _ = operand_bytes(normed, training("mxfp8", stack="megatron-core"), 1)
        assert float(forward) == pytest.approx(4.0625 * INPUTS)  # no norm writes blocks

    def test_a_gradient_is_cast_before_its_gather_and_transposed_after_it(self) -> None:
        by_rows = replace(MATMUL, split="rows")
        _, backward = operand_bytes(by_rows, training("fp8", stack="megatron-core"), 4)
        assert float(backward) == (3 / 4 + 2) * OUTPUTS


class TestTheRecipeOfFourBits:
    def test_it_costs_one_read_more_than_two_layouts_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of each input and gradient; weights are cast once a step."""
        whole = made("nvfp4", stack="megatron-core")
        monkeypatch.setitem(OPERANDS, "nvfp4", OPERANDS["nvfp4"]._replace(transforms=False))
        plain = made("nvfp4", stack="megatron-core")
        assert (whole[0] - plain[0], whole[1] - plain[1]) == pytest.approx((2 * INPUTS, 2 * OUTPUTS))

    def test_squares_of_a_weight_turn_with_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its 4-bit layout is read instead of its source in 16 bits."""
        square = made("nvfp4")
        monkeypatch.setitem(OPERANDS, "nvfp4", OPERANDS["nvfp4"]._replace(square_weights=False))
        assert made("nvfp4")[1] - square[1] == pytest.approx((2 - 0.5 - 1 / 16) * WEIGHTS)

    @pytest.mark.parametrize(("linear", "overlap"), [("fp8", 1.0), ("mxfp8", 1.0), ("nvfp4", 0.0)])
    def test_it_gathers_nothing_in_pieces(self, linear: str, overlap: float) -> None:
        assert tensor_parallel_overlap(training(linear, stack="megatron-core")) == overlap

    @pytest.mark.parametrize(
        ("linear", "stack", "agree"),
        [
            ("nvfp4", "megatron-core", True),
            ("fp8", "megatron-core", False),
            ("fp8", "automodel", True),
            ("mxfp8", "megatron-core", False),
            ("nvfp4", "torchtitan", False),
        ],
    )
    def test_ranks_agree_on_a_scale_of_the_tensors_own_values(self, linear: str, stack: str, agree: bool) -> None:
        assert reduces_scales(training(linear, stack=stack)) == agree


def test_scales_of_rows_cast_each_layout_from_the_source() -> None:
    """Read two and write one, by rows. By columns the source is read, written turned and read again, and cast: seven. Of a gradient a
    compiler's kernel writes the turned source beside the first layout: five. Both gradients are scaled
    afterwards: two bytes are read and written, and eager PyTorch writes and reads four bytes of the product of the scales."""
    forward, cast = 3 * (INPUTS + WEIGHTS), 3 * OUTPUTS + 7 * (INPUTS + WEIGHTS)
    assert made("fp8-rowwise") == (forward, cast + 7 * OUTPUTS + 12 * (INPUTS + WEIGHTS))
    assert made("fp8-rowwise", stack="torchtitan") == (forward, cast + 5 * OUTPUTS + 4 * (INPUTS + WEIGHTS))


def test_an_input_that_is_cast_for_another_matmul_has_a_gradient_of_its_own() -> None:
    shared = replace(MATMUL, shares_input=True)
    _, backward = operand_bytes(shared, training("fp8-rowwise", stack="torchtitan"), 1)
    assert float(backward) == 3 * OUTPUTS + 7 * WEIGHTS + 5 * OUTPUTS + 4 * (INPUTS + WEIGHTS)


def test_scales_of_rows_of_each_experts_tokens_are_found_by_another_kernel() -> None:
    """By columns the copy of inputs and gradients is read once more, for the scales, than where the tokens are one group: nine
    bytes instead of five. A weight is no such group. A grouped matmul knows all scales, so that nothing is scaled afterwards."""
    matmul = Matmul(64, 8, 16, 4)
    plain, grouped = (
        operand_bytes(replace(matmul, experts=so), training("fp8-rowwise", stack="torchtitan"), 1)
        for so in (False, True)
    )
    assert grouped[0] == plain[0]
    assert grouped[1] - plain[1] == 2 * 2 * 4 * (64 * 8 + 64 * 16) - 4 * 4 * (64 * 8 + 8 * 16)


def test_a_weight_gradient_in_the_compute_format_needs_one_layout_of_inputs_and_gradients() -> None:
    """The gradient of the input is scaled afterwards, that of the weight has no scales."""
    forward = 3 * (INPUTS + WEIGHTS)
    assert made("fp8-rowwise-gw-hp") == (forward, 3 * OUTPUTS + 3 * WEIGHTS + 12 * INPUTS)
    assert made("fp8-rowwise-gw-hp", stack="torchtitan") == (forward, 3 * OUTPUTS + 3 * WEIGHTS + 4 * INPUTS)


def test_a_gather_in_fp8_needs_matmuls_that_read_it() -> None:
    with pytest.raises(SpecError, match="gather 'fp8' needs linear 'fp8', not None"):
        Precision.parse({"gather": "fp8"}, source="test")


def test_formats_are_the_ones_that_may_be_asked_for() -> None:
    for name in OPERANDS:
        assert Precision.parse({"linear": name}, source="test").linear == name


def test_a_compiler_casts_an_input_once_for_all_matmuls_that_read_it() -> None:
    """An eager stack casts it for each; weights and gradients are each matmul's own."""
    again = replace(MATMUL, shares_input=True)
    for stack, inputs in (("torchtitan", 0), ("torchtitan-eager", INPUTS)):
        forward, backward = operand_bytes(again, training("mxfp8", stack=stack), 1)
        each = 2 + 1 + 1 / 32
        assert (float(forward), float(backward)) == pytest.approx(
            (each * (inputs + WEIGHTS), each * (2 * OUTPUTS + inputs + WEIGHTS))
        )
