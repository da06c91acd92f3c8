"""What kernels of the recurrence keep, and what they move."""

from shardwright.base import Number
from shardwright.specs import BYTES_PER_ELEMENT
from shardwright.specs.model import GatedDelta, Lightning, LinearAttention, Mamba2

_FP32 = BYTES_PER_ELEMENT["fp32"]


def recurrence_bytes(attention: LinearAttention, element: int, norm: Number, *, one_kernel: bool) -> Number:
    """Bytes per token that linear attention keeps in fused kernels, before any split over tp and without its input.

    `norm`: what a norm of all outputs keeps. `one_kernel`: the projection of the outputs runs in the kernel of the recurrence, as
    transformers calls that of mamba_ssm; Megatron-Core runs the norm and the projection behind it.

    Delta rule, by what the gradients read: the convolution reads its input, and its activation the convolution's output. The
    recurrence reads queries and keys, repeated for each head of values, values, two fp32 numbers a head, and a state in the compute
    format for each chunk. The gated norm keeps its fp32 input and the gate, and the output projection its input.

    Mamba-2 (mamba_ssm, ops/triton/ssd_combined.py, `MambaSplitConv1dScanCombinedFn`): the projected input and the recurrence's output,
    and an inverse root in fp32 a group. Convolution, states, gate and norm are made again in the backward.

    Lightning attention: the activation keeps queries, keys and values before it, the kernel those behind it. The gate keeps its
    sigmoid and the normalised output, the output projection its input.

    transformers' own code in Python, which runs where no such kernel is installed, keeps more.
    """
    values = attention.value_width
    if isinstance(attention, Mamba2):
        behind = 0 if one_kernel else 2 * values
        return element * (attention.input_width + values + behind) + 4.0 * attention.key_heads
    if not isinstance(attention, GatedDelta):
        return norm + element * (2 * (2 * attention.key_width + values) + 3 * values)
    convolved = 2 * attention.convolved_width
    recurrence = 2 * attention.heads * attention.key_size + values
    state = attention.state_size / attention.chunk
    return element * (convolved + recurrence + state + 2 * values) + 4.0 * (2 * attention.heads + values)


def recurrence_moved_bytes(attention: LinearAttention, element: int, *, backward: bool) -> float:
    """Bytes per token that the kernels of one pass read and write, without the convolution and the norm around them.

    Mamba-2, mamba_ssm, ops/triton/ssd_combined.py: states in fp32 are written for each chunk, read and written where they are
    passed on, and read for the outputs. Forward, X is read twice and Y written, B and C are read twice. The backward makes the states
    again, and their gradients as often. Four of its kernels read the gradient of Y, four X; one writes that of X. B and C are read
    or written four times each.

    Lightning: one kernel, which holds the state (triton, lightning_attn2.py of its authors): queries, keys, values, output; the backward
    reads them and the gradient of the output once for queries and once for keys and values. Of the delta rule nothing is
    counted: its FLOPs outweigh what it moves.
    """
    if isinstance(attention, Mamba2):
        states = (8 if backward else 4) * _FP32 * attention.state_size / attention.chunk
        values, keys = (9, 8) if backward else (3, 4)
        return states + element * (values * attention.value_width + keys * attention.key_width)
    if isinstance(attention, Lightning):
        return element * (11.0 if backward else 4.0) * attention.value_width
    return 0.0
