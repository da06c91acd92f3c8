"""Weight matmuls in 8 and 4 bits: their peak, the bytes they read, and the cost of making their operands.

The weight matmuls of layers run in such a format. The router, attention, the head and the norms do not, as in torchao
and Transformer Engine. Every operand enters two matmuls, along another axis each. Weights enter the forward and the
input's gradient. Inputs enter the forward and the weight's gradient. Output gradients enter both gradients. Tensor
cores read 8-bit operands along the inner axis only (NVIDIA, cuBLAS documentation, "8-bit floating point data types").
Each operand is therefore made in two layouts.
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
    gradient on the tokens that `sequence_split` leaves. Where the kernels before the matmul write its operands, this
    traffic replaces that of their usual outputs.
    """
    precision = training.precision
    if precision.linear is None or training.software.fused_operands:
        return np.zeros(()), np.zeros(())
    operand, source_bytes = OPERANDS[precision.linear], precision.activation_bytes_per_element
    rows = np.asarray(matmul.m, dtype=float) * matmul.groups
    inputs, outputs, weights = rows * matmul.k, rows * matmul.n, np.asarray(matmul.k) * matmul.n * matmul.groups
    first = operand.first_bytes(source_bytes, scan_is_fused=training.software.fused_elementwise)
    second = operand.second_bytes(source_bytes)
    if not precision.gather:
        return np.asarray((inputs + weights) * first), np.asarray(
            outputs * first + (inputs + outputs + weights) * second
        )
    of_input = sequence_split if matmul.split == "columns" else 1
    of_gradient = sequence_split if matmul.split == "rows" else 1
    turned = (inputs + outputs + weights) * second
    return np.asarray(inputs / of_input * first), np.asarray(outputs / of_gradient * first + turned)
