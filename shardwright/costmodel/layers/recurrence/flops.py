"""FLOPs of the recurrence."""

from shardwright.specs.model import GatedDelta, Lightning, LinearAttention, Mamba2


def recurrence_flops(attention: LinearAttention) -> float:
    """FLOPs of the forward per token, with those of the convolution. C: tokens of a chunk, N: keys, P: values, of a head."""
    of_heads = {GatedDelta: _delta_flops, Mamba2: _state_space_flops, Lightning: _lightning_flops}[type(attention)]
    return of_heads(attention) + 2.0 * attention.convolved_width * attention.kernel


def _delta_flops(attention: LinearAttention) -> float:
    """The gated delta rule (Yang et al. 2024, arXiv 2412.06464, section 3.3).

    A chunk multiplies keys with keys and queries with keys (N elements each), then the results with keys, values and updated
    values (N, P and P). The state of (N, P) is read for the updates and the outputs, and written.
    """
    chunk, keys, values = attention.chunk, attention.key_size, attention.value_size
    return 2.0 * attention.heads * (chunk * (3 * keys + 2 * values) + 3 * keys * values)


def _state_space_flops(attention: LinearAttention) -> float:
    """Mamba-2 (Dao and Gu 2024, arXiv 2405.21060, section 6.3).

    Within a chunk C and B are multiplied (C N, once a group: mamba_ssm, ops/triton/ssd_bmm.py), and the result with X (C P). The
    state of (N, P) is written at the end of a chunk, and read for its outputs. Passing it on adds up C times less often.
    """
    chunk, keys, values = attention.chunk, attention.key_size, attention.value_size
    return 2.0 * (chunk * attention.key_width + attention.heads * (chunk * values + 2 * keys * values))


def _lightning_flops(attention: LinearAttention) -> float:
    """Lightning attention (Qin et al. 2024, arXiv 2401.04658, algorithm 1): scores and weighted values within a block, and a state."""
    chunk, keys, values = attention.chunk, attention.key_size, attention.value_size
    return 2.0 * attention.heads * (chunk * (keys + values) + 2 * keys * values)
