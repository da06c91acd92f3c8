"""Weight matmuls in 8 and 4 bits: the peak they run at, the bytes they read, and what making their operands takes.

The layers' weight matmuls run in such a format; the router, attention, the head and the norms do not, as in torchao and
Transformer Engine. Every operand enters two matmuls, along another axis each: weights the forward and the input's
gradient, inputs the forward and the weight's gradient, output gradients both of these. Tensor cores read 8-bit operands along
the inner axis only (NVIDIA, cuBLAS documentation, "8-bit floating point data types"), so each is made in two layouts.
"""

from typing import NamedTuple

import numpy as np

from shardwright.costmodel.op_times.protocol import Array, Number
from shardwright.specs.cluster import DeviceFormat
from shardwright.specs.training import LinearFormat, TrainingSpec

from .operators import Matmul


class Operand(NamedTuple):
    """How one format is made of another, per element.

    `peak`: the device's peak that its matmuls run at. `needs`: a format of the devices that have such matmuls at all; those that
    scale blocks came with 4-bit ones (NVIDIA Blackwell, AMD CDNA 4). `scans`: the source is read once more before, for one scale of the whole tensor (Micikevicius et al. 2022, arXiv
    2209.05433). `bytes`: of the copy, its scales included. `again`: the second layout is made of the source once more, as
    scales of blocks along the inner axis do not turn with it (OCP Microscaling Formats 1.0, section 5.2; Rouhani et al. 2023,
    arXiv 2310.10537); else the first is transposed.
    """

    peak: DeviceFormat
    needs: DeviceFormat
    scans: bool
    bytes: float
    again: bool

    def first_bytes(self, source_bytes: Number, *, scan_is_fused: bool) -> Number:
        """Memory traffic of the first layout; a compiler finds the scale in the kernel that writes the source."""
        return source_bytes * (2 if self.scans and not scan_is_fused else 1) + self.bytes

    def second_bytes(self, source_bytes: Number) -> Number:
        """Memory traffic of the second layout; the scale of the whole tensor is known by then."""
        return (source_bytes if self.again else self.bytes) + self.bytes


OPERANDS: dict[LinearFormat, Operand] = {
    "fp8": Operand("fp8", "fp8", scans=True, bytes=1.0, again=False),
    # blocks of 32 share an 8-bit scale, blocks of 16 an 8-bit scale below one of the whole tensor
    "mxfp8": Operand("fp8", "fp4", scans=False, bytes=1.0 + 1 / 32, again=True),
    "nvfp4": Operand("fp4", "fp4", scans=True, bytes=0.5 + 1 / 16, again=True),
}


def operand_bytes(matmul: Matmul, training: TrainingSpec, sequence_split: Number) -> tuple[Array, Array]:
    """Memory traffic of making the operands of one weight matmul's (forward, backward).

    Forward makes the input and the weight, backward the output's gradient and everything's second layout. What is gathered in
    the format is cast before: a weight on its shard, an input or a gradient on the tokens that `sequence_split` leaves. Where
    the kernels before the matmul write its operands, that replaces what they would write else.
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
