"""Weight matmuls in 8 and 4 bits: their peak, the bytes they read, and the cost of making their operands.

The weight matmuls of layers run in such a format. The router, attention, the head and the norms do not, as in torchao
and Transformer Engine. Every operand enters two matmuls, along another axis each. Weights enter the forward and the
input's gradient. Inputs enter the forward and the weight's gradient. Output gradients enter both gradients. Tensor
cores read 8-bit operands along the inner axis only (NVIDIA, cuBLAS documentation, "8-bit floating point data types").
Each operand is therefore made in two layouts.

Transformer Engine (pytorch/module/linear.py, layernorm_linear.py): one kernel casts an operand and writes both layouts.
With scales of earlier steps a norm writes its output in 8 bits, which the backward pass transposes; a gradient that is
gathered is cast before that and transposed after it. Weights are cast in the first microbatch of a step, which is not
counted.
"""

import numpy as np

from shardwright.base import Array, Number
from shardwright.costmodel.op_times import OPERANDS
from shardwright.specs import TrainingSpec

from .operators import Matmul


def operand_bytes(matmul: Matmul, training: TrainingSpec, sequence_split: Number) -> tuple[Array, Array]:
    """Return the (forward, backward) memory traffic of making the operands of one weight matmul.

    The forward makes the input and the weight. The backward makes the output's gradient and the second layout of
    everything. Operands that are gathered in the format are cast before that: a weight on its shard, an input or a
    gradient on the tokens that `sequence_split` leaves.
    """
    precision, stack = training.precision, training.software
    if precision.linear is None:
        return np.zeros(()), np.zeros(())
    operand, source_bytes = OPERANDS[precision.linear], precision.activation_bytes_per_element
    rows = np.asarray(matmul.m, dtype=float) * matmul.groups
    # a compiler casts an input once for all matmuls that read it
    cast = not (matmul.shares_input and stack.fused_elementwise)
    inputs, outputs, weights = cast * rows * matmul.k, rows * matmul.n, np.asarray(matmul.k) * matmul.n * matmul.groups
    of_input = sequence_split if matmul.split == "columns" else 1
    of_gradient = sequence_split if matmul.split == "rows" else 1
    if stack.casts_both_layouts:
        scaled = stack.fused_operands and not operand.again
        both = operand.both_bytes(source_bytes, scaled=scaled)
        transposed = 2 * operand.bytes
        gradients = outputs * np.where(
            (np.asarray(of_gradient) > 1) & (not operand.again), (both - operand.bytes) / of_gradient + transposed, both
        )
        if scaled and matmul.after_norm:
            saved = (source_bytes - operand.bytes) / of_input
            return np.asarray(-inputs * saved), np.asarray(inputs * transposed + gradients)
        return np.asarray(inputs * both), gradients
    first = operand.first_bytes(source_bytes, scan_is_fused=stack.fused_elementwise)
    second = operand.second_bytes(source_bytes)
    if operand.plain_weight_gradient:
        return np.asarray((inputs + weights) * first), np.asarray(outputs * first + weights * second)
    turned = (inputs + outputs + weights) * second
    if not precision.gather:
        return np.asarray((inputs + weights) * first), np.asarray(outputs * first + turned)
    return np.asarray(inputs / of_input * first), np.asarray(outputs / of_gradient * first + turned)
