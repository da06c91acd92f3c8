"""Fused attention in 8 bits: its two kinds of matmuls run at the device's fp8 rate, its exponentials as before.

A score costs 4 d FLOPs of a forward, with heads of d columns, and one exponential in each pass, at the device's rate of
exponentials. Matmuls and exponentials are counted one after the other, t = m + x. So in 8 bits t' = m p / p' + x, with the peaks
p and p' of the two formats. FlashAttention-3's 740 TFLOP/s in 16 bits with heads of 256 become 1.25 PFLOP/s; its paper has
nearly 1.2 (Shah et al. 2024, arXiv 2407.08608, abstract).
"""

import numpy as np

from shardwright.base import Array, SpecError
from shardwright.costmodel.op_times import ATTENTION_BACKWARD
from shardwright.specs import Device, TrainingSpec
from shardwright.specs.model import Block


def fp8_attention_seconds(
    device: Device, training: TrainingSpec, seconds: Array, flops: Array, *, head_size: int, backward: bool
) -> Array:
    """Return the seconds in 8 bits of attention that takes `seconds` in the compute format for `flops`.

    Raises:
        SpecError: the device has no matmuls in 8 bits.
    """
    peaks = device.peak_flops_per_s
    if "fp8" not in peaks:
        raise SpecError(f"{device.name} has no matmuls in fp8; leave attention in fp8 out")
    per_score = 4 * head_size * (ATTENTION_BACKWARD if backward else 1.0)
    exponentials = np.minimum(flops / per_score / device.exponential_rate, seconds)
    faster = peaks["fp8"] / peaks[training.precision.compute]
    return np.asarray((seconds - exponentials) / faster + exponentials)


def fp8_attention_cast_bytes(block: Block, training: TrainingSpec, *, backward: bool) -> float:
    """Memory traffic per token of the casts around an attention core in 8 bits, on one rank without tensor parallelism.

    Queries, keys and values are read and written in one byte, and so is the output, back. The backward does that with the
    output's gradient, and back with theirs (Transformer Engine, attention/dot_product_attention/backends.py, FusedAttnFunc). A
    scale of a tensor's own values needs one more read of what is cast.
    """
    attention, element = block.attention, training.precision.activation_bytes_per_element
    key_heads = attention.heads if training.software.repeats_heads else attention.kv_heads
    key_value = key_heads * (attention.head_size + attention.value_head_size)
    inputs, output = attention.heads * attention.head_size + key_value, attention.heads * attention.value_head_size
    scanned = element * (not training.software.fused_operands)
    return float((element + 1) * (inputs + output) + scanned * (output if backward else inputs))
