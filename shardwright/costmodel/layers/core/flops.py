"""FLOPs of the attention core: scores and weighted values, or the recurrence of linear attention."""

import numpy as np

from shardwright.base import Array, Number
from shardwright.costmodel.layers.recurrence import recurrence_flops
from shardwright.costmodel.op_times import ATTENTION_BACKWARD
from shardwright.specs import TrainingSpec
from shardwright.specs.model import AnyAttention, Block, LinearAttention

from .documents import document_length, keys_seen


def attention_core_flops(block: Block, training: TrainingSpec, tokens: Number, tp: Number, *, causal: bool) -> Array:
    """FLOPs of scores and weighted values on this tp rank: 2 T (keys seen) heads (key size + value size) / t.

    With `causal` false every key of the sequence counts, or of the document where documents are packed. A kernel that masks after computing works that way. So does
    the usual definition of MFU (Chowdhery et al. 2022, appendix B).
    """
    attention = block.attention
    if isinstance(attention, LinearAttention):
        return np.asarray(tokens, dtype=float) * recurrence_flops(attention) / tp
    keys = keys_seen(training, attention.window) if causal else document_length(training)
    sizes = attention.heads * (attention.head_size + attention.value_head_size)
    return 2.0 * np.asarray(tokens, dtype=float) * keys * sizes / tp


def backward_per_forward(attention: AnyAttention) -> float:
    """FLOPs of the backward of a fused core for each of its forward, whose two matmuls are as wide as keys and as values: scores again
    and gradients of queries and keys are as wide as keys, those of weights and of values as values (Dao 2023, FlashAttention-2, section
    4.1). 2.5 where both are as wide."""
    if isinstance(attention, LinearAttention):
        return ATTENTION_BACKWARD
    keys, values = attention.head_size, attention.value_head_size
    return (3 * keys + 2 * values) / (keys + values)
