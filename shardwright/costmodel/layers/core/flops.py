"""FLOPs of the attention core: scores and weighted values, or the recurrence of linear attention."""

import numpy as np

from shardwright.base import Array, Number
from shardwright.specs import TrainingSpec
from shardwright.specs.model import Block, LinearAttention

from .documents import document_length, keys_seen


def attention_core_flops(block: Block, training: TrainingSpec, tokens: Number, tp: Number, *, causal: bool) -> Array:
    """FLOPs of scores and weighted values on this tp rank: 2 T (keys seen) heads (key size + value size) / t.

    With `causal` false every key of the sequence counts, or of the document where documents are packed. A kernel that masks after computing works that way. So does
    the usual definition of MFU (Chowdhery et al. 2022, appendix B).
    """
    attention = block.attention
    if isinstance(attention, LinearAttention):
        return np.asarray(tokens, dtype=float) * _recurrence_flops(attention) / tp
    keys = keys_seen(training, attention.window) if causal else document_length(training)
    sizes = attention.heads * (attention.head_size + attention.value_head_size)
    return 2.0 * np.asarray(tokens, dtype=float) * keys * sizes / tp


def _recurrence_flops(attention: LinearAttention) -> float:
    """FLOPs per token of the gated delta rule in chunks (Yang et al. 2024, arXiv 2412.06464, section 3.3), and of the convolution.

    A chunk of C tokens multiplies keys with keys and queries with keys (N elements each), then the results with keys, values
    and updated values (N, P and P). The state of (N, P) is read for the updates and the outputs, and written.
    """
    chunk, keys, values = attention.chunk, attention.key_size, attention.value_size
    within = chunk * (3 * keys + 2 * values)
    state = 3 * keys * values
    return 2.0 * attention.heads * (within + state) + 2.0 * attention.convolved_width * attention.kernel
