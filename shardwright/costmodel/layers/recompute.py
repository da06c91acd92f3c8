"""Selective recompute of one layer: the bytes it keeps and the work it repeats, by
the policy of a stack (Stack.selective)."""

from typing import NamedTuple

import numpy as np

from shardwright.base import Array, Number
from shardwright.specs import Stack, TrainingSpec
from shardwright.specs.model import Block, FeedForward, LatentAttention

from .operators import ExpertSplit, Matmul, attention_matmuls, ffn_matmuls


class Selection(NamedTuple):
    """`repeated`: matmuls that the backward pass computes again. `kept_bytes`:
    bytes per token beside the layer's input."""

    repeated: list[Matmul]
    kept_bytes: Array


def selection(
    block: Block,
    training: TrainingSpec,
    hidden: int,
    tokens: Number,
    tp: Number,
    sequence_split: Number,
    experts: ExpertSplit | None = None,
) -> Selection | None:
    """Return the selection of the stack, or None where only the attention core is repeated.

    "elementwise" keeps the output of every matmul and of the attention kernel. "alternate-matmuls" keeps that of the
    attention kernel and of every second matmul, in the order in which they run. With separate projections q, k, v,
    output, gate, up, down it keeps q, v, gate and down; it repeats k, output and up (torchtitan, `_save_list` and its
    counter). No backward pass reads the output of the last one, down. An eager stack caches it all the same; a compiled
    one does not (Stack.keeps_unread).
    """
    stack: Stack = training.software
    if stack.selective == "attention-core":
        return None
    element, attention = training.precision.activation_bytes_per_element, block.attention
    log_sum = 4.0 if training.attention == "flash" else 0.0
    core = (element * attention.value_head_size + log_sum) * attention.heads / np.asarray(tp)
    joined = isinstance(attention, LatentAttention) or not isinstance(block.ffn, FeedForward)
    matmuls = [  # in the order in which they run
        *attention_matmuls(block, hidden, tokens, tp, joined=joined),
        *ffn_matmuls(block, hidden, tokens, tp, experts, joined=joined),
    ]
    kept = [_output_elements(matmul, hidden, tokens, sequence_split) for matmul in matmuls]
    if stack.selective == "elementwise":
        return Selection([], core + element * sum(kept, np.zeros_like(core)))
    read = kept[0::2] if stack.keeps_unread else kept[:-1][0::2]
    return Selection(matmuls[1::2], core + element * sum(read, np.zeros_like(core)))


def _output_elements(matmul: Matmul, hidden: int, tokens: Number, sequence_split: Number) -> Number:
    """Output elements of a matmul per token of the rank. Experts may compute several copies of a token, or a part.

    Outputs of the hidden width are reduced over tp, and kept split where the sequence is. Outputs that are split over
    tp are arrays over candidates, so one of equal width is not mistaken for them.
    """
    if matmul.m is not tokens:
        return np.asarray(matmul.m * matmul.groups * matmul.n / np.asarray(tokens))
    reduced = isinstance(matmul.n, int) and matmul.n == hidden
    return np.asarray(matmul.n) / sequence_split if reduced else matmul.n
