"""Sizes of attention and of the memory-bound operators that span models, limited to a reasonable time on a device."""

import itertools

from shardwright.costmodel.op_times import Operator
from shardwright.profiler.timing import Sizes

_CPU_MOST_ELEMENTS = 2.0**23
_CPU_MOST_ATTENTION_FLOPS = 3e9
_HEADS: tuple[tuple[int, int], ...] = ((8, 8), (8, 2))  # (heads, kv_heads): multi-head and grouped
_GPU_HEADS: tuple[tuple[int, int], ...] = ((32, 32), (32, 8), (64, 8))
_HEAD_SIZES, _GPU_HEAD_SIZES = (64, 128, 32), (64, 96, 128, 256)
_LATENT_HEAD_SIZE, _LATENT_HEADS = 192.0, (16.0, 128.0)  # DeepSeek-V2-Lite and DeepSeek-V3


def family_attention(device_type: str) -> list[Sizes]:
    """Return (batch, heads, kv_heads, length, head_size)."""
    on_cpu = device_type == "cpu"
    lengths = [128 * 2**power for power in range(6)] if on_cpu else [512 * 2**power for power in range(9)]
    batches = (1, 4)
    heads_of, head_sizes = (_HEADS, _HEAD_SIZES) if on_cpu else (_GPU_HEADS, _GPU_HEAD_SIZES)
    shapes = itertools.product(batches, heads_of, lengths, head_sizes)
    family = [
        tuple(float(size) for size in (batch, heads, kv_heads, length, head_size))
        for batch, (heads, kv_heads), length, head_size in shapes
    ]
    return [at for at in family if not on_cpu or attention_flops(at) <= _CPU_MOST_ATTENTION_FLOPS]


def family_latent_attention(device_type: str) -> list[Sizes]:
    """Return (batch, heads, kv_heads, length, head_size) of latent attention; none on a CPU, where no one trains it."""
    lengths = [] if device_type == "cpu" else [1024.0 * 2**power for power in range(7)]
    return [(1.0, heads, heads, length, _LATENT_HEAD_SIZE) for heads in _LATENT_HEADS for length in lengths]


def attention_flops(at: Sizes) -> float:
    """Return FLOPs of a causal forward pass: two matmuls of which half is computed."""
    batch, heads, _, length, head_size = at
    return 2.0 * batch * heads * length * length * head_size


def family_operator(operator: Operator, device_type: str, *, backward: bool) -> list[Sizes]:
    """Return (rows, width); for an embedding's backward pass the rows and width of its table, and the tokens."""
    on_cpu = device_type == "cpu"
    rows = (128.0, 512.0, 2048.0, 8192.0) if on_cpu else (512.0, 2048.0, 8192.0, 32768.0)
    widths = (128.0, 512.0, 2048.0, 8192.0) if on_cpu else (512.0, 2048.0, 8192.0, 16384.0)
    vocabularies = (256.0, 4096.0, 32000.0) if on_cpu else (4096.0, 32000.0, 128256.0)
    family: list[Sizes]
    if operator == "embedding" and backward:
        tables = itertools.product(vocabularies, widths[:3], rows[:3])
        family = list(tables)
    else:
        family = list(itertools.product(rows, vocabularies if operator == "cross_entropy" else widths))
    return [at for at in family if not on_cpu or at[0] * at[1] <= _CPU_MOST_ELEMENTS]
