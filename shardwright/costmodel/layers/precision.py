"""Weight matmuls in 8 and 4 bits: their peak, the bytes they read, and the cost of making their operands.

The weight matmuls of layers run in such a format. The router, attention, the head and the norms do not, as in torchao
and Transformer Engine. Every operand enters two matmuls, along another axis each. Weights enter the forward and the
input's gradient. Inputs enter the forward and the weight's gradient. Output gradients enter both gradients. Tensor
cores read 8-bit operands along the inner axis only (NVIDIA, cuBLAS documentation, "8-bit floating point data types").
Each operand is therefore made in two layouts.

Transformer Engine (pytorch/module/linear.py, layernorm_linear.py): one kernel casts an operand and writes both layouts.
With scales of earlier steps a norm writes its output in 8 bits, which the backward pass transposes; a gradient that is
gathered is cast before that and transposed after it. Weights are cast in the first microbatch of a step, which is not
counted. In 4 bits the second layout of inputs and gradients is transformed first, by a kernel of its own.

Layers in the compute format (`TrainingSpec.high_precision_layers`) cost as such; each layer then costs the mean of all.
"""

from typing import NamedTuple

import numpy as np

from shardwright.base import Array, Number
from shardwright.costmodel.op_times import OPERANDS, Operand
from shardwright.specs import TrainingSpec

from .operators import Matmul


def tensor_parallel_overlap(training: TrainingSpec) -> float:
    """Return the share of tensor-parallel communication that runs in pieces beside matmuls; none of a format that cannot."""
    linear = training.precision.linear
    return training.software.tensor_parallel_overlap * (linear is None or OPERANDS[linear].in_pieces)


def reduces_scales(training: TrainingSpec) -> bool:
    """Whether each gathered operand has one scale for the tensor, of its own values, on which the ranks agree before they
    cast (Transformer Engine, Float8CurrentScalingQuantizer and NVFP4Quantizer, with_amax_reduction)."""
    stack, linear = training.software, training.precision.linear
    if linear is None or not stack.casts_both_layouts:
        return False
    return OPERANDS[linear].scans and (OPERANDS[linear].again or not stack.fused_operands)


class _Elements(NamedTuple):
    """Elements of the operands of one matmul, and the ranks that share its input and its output's gradient. `inputs`: those that are
    cast for it; `input_gradients`: those of the result of its input's gradient."""

    inputs: Array
    input_gradients: Array
    outputs: Array
    weights: Array
    of_input: Number
    of_gradient: Number
    grouped: bool


def operand_bytes(
    matmul: Matmul, training: TrainingSpec, sequence_split: Number, *, trained: bool = True
) -> tuple[Array, Array]:
    """Return the (forward, backward) memory traffic of making the operands of one weight matmul.

    The forward makes the input and the weight. The backward makes the output's gradient and the second layout of
    everything. Operands that are gathered in the format are cast before that: a weight on its shard, an input or a
    gradient on the tokens that `sequence_split` leaves. A weight that is not `trained` has no matmul that reads the second
    layout of inputs and gradients. Where the matmuls of the backward pass do not know the scales, it also scales their results.
    """
    if training.precision.linear is None:
        return np.zeros(()), np.zeros(())
    rows = np.asarray(matmul.m, dtype=float) * matmul.groups
    # a compiler casts an input once for all matmuls that read it
    cast = not (matmul.shares_input and training.software.fused_elementwise)
    elements = _Elements(
        inputs=cast * rows * matmul.k,
        input_gradients=rows * matmul.k,
        outputs=rows * matmul.n,
        weights=np.asarray(matmul.k) * matmul.n * matmul.groups,
        of_input=sequence_split if matmul.split == "columns" else 1,
        of_gradient=sequence_split if matmul.split == "rows" else 1,
        grouped=matmul.experts,
    )
    operand = OPERANDS[training.precision.linear]
    if training.software.casts_both_layouts:
        return _both_layouts_at_once(operand, elements, training, after_norm=matmul.after_norm, trained=trained)
    return _one_layout_after_the_other(operand, elements, training, trained=trained)


def _one_layout_after_the_other(
    operand: Operand, elements: _Elements, training: TrainingSpec, *, trained: bool
) -> tuple[Array, Array]:
    source_bytes = training.precision.activation_bytes_per_element
    inputs, _, outputs, weights, of_input, of_gradient, grouped = elements
    after = _scaled_after(operand, elements, training, trained=trained)
    compiled = training.software.fused_elementwise
    first = operand.first_bytes(source_bytes, scan_is_fused=compiled)
    # no kernel of a layer writes a weight, so nothing finds its scale on the way
    of_weights = operand.first_bytes(source_bytes, scan_is_fused=False)
    kept = (not training.software.recasts_operands) if compiled else None
    of_inputs = operand.second_bytes(source_bytes, grouped=grouped, together=kept)
    of_gradients = operand.second_bytes(source_bytes, grouped=grouped, together=compiled or None)
    turned_weights = operand.second_bytes(source_bytes, weight=True, together=False if compiled else None)
    if operand.plain_weight_gradient:
        forward = inputs * first + weights * of_weights
        return np.asarray(forward), np.asarray(outputs * first + weights * turned_weights + after)
    turned = (inputs * of_inputs + outputs * of_gradients) * trained + after
    if not training.precision.gather:
        forward = inputs * first + weights * of_weights
        return np.asarray(forward), np.asarray(outputs * first + turned + weights * turned_weights)
    # weights come in the format, so that only a copy of them is turned
    turned = turned + weights * 2 * operand.bytes
    return np.asarray(inputs / of_input * first), np.asarray(outputs / of_gradient * first + turned)


def _scaled_after(operand: Operand, elements: _Elements, training: TrainingSpec, *, trained: bool) -> Array:
    """Return the memory traffic of scaling both gradients once their matmuls are done. Grouped matmuls scale by themselves
    (torchao/prototype/moe_training/fp8_grouped_mm.py: use_fast_accum)."""
    weights = elements.weights * (trained and not operand.plain_weight_gradient)
    each = operand.scaling_bytes(
        training.precision.activation_bytes_per_element, fused=training.software.fused_elementwise
    )
    return np.asarray((elements.input_gradients + weights) * each * (not elements.grouped))


def _both_layouts_at_once(
    operand: Operand, elements: _Elements, training: TrainingSpec, *, after_norm: bool, trained: bool
) -> tuple[Array, Array]:
    source_bytes = training.precision.activation_bytes_per_element
    inputs, _, outputs, _, of_input, of_gradient, _ = elements
    scaled = training.software.fused_operands and not operand.again
    both, transposed = operand.both_bytes(source_bytes, scaled=scaled), 2 * operand.bytes
    if not trained:  # the kernel writes one layout, and nothing transposes the other
        both, transposed = both - operand.bytes - source_bytes * operand.transforms, 0.0
    gathered = (np.asarray(of_gradient) > 1) & (not operand.again)
    cast = both - operand.bytes * trained
    gradients = outputs * np.where(gathered, cast / of_gradient + transposed, both)
    if not (scaled and after_norm):
        return np.asarray(inputs * both), np.asarray(gradients)
    saved = (source_bytes - operand.bytes) / of_input
    return np.asarray(-inputs * saved), np.asarray(inputs * transposed + gradients)
