"""Seconds of the attention core: as one fused kernel, or as two matmuls with the scores between them in memory."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from shardwright.base import Array
from shardwright.costmodel.layers.frame import WorkFrame
from shardwright.costmodel.layers.operators import Matmul
from shardwright.costmodel.layers.recurrence import recurrence_moved_bytes
from shardwright.costmodel.layers.saved import layer_code
from shardwright.costmodel.op_times import score_passes
from shardwright.specs import BYTES_PER_ELEMENT
from shardwright.specs.model import Block, LinearAttention, NoAttention

from .documents import document_length, unevenness
from .flops import attention_core_flops, backward_per_forward
from .fp8 import fp8_attention_cast_bytes, fp8_attention_seconds


class Passes(NamedTuple):
    """Seconds of a forward and a backward, (N,) each."""

    forward: Array
    backward: Array


@dataclass(frozen=True)
class AttentionCore:
    """The core of `block`'s attention for every candidate of `frame`."""

    frame: WorkFrame
    block: Block

    @cached_property
    def passes(self) -> Passes:
        """Forward and backward of scores, softmax and weighted values; fused kernels compute only the causal half."""
        frame, attention = self.frame, self.block.attention
        tp = frame.candidates.tp
        if isinstance(attention, NoAttention):
            return Passes(np.zeros(len(frame.tokens)), np.zeros(len(frame.tokens)))
        if frame.training.attention == "flash" or isinstance(attention, LinearAttention):
            flops = attention_core_flops(self.block, frame.training, frame.tokens, tp, causal=True)
            backward = self._fused_core(backward_per_forward(attention) * flops, backward=True)
            return Passes(self._fused_core(flops), backward)
        batched = frame.candidates.micro_batch * attention.heads / tp
        length = float(frame.training.seq_len)
        queries = length / frame.candidates.cp
        matmuls = [
            Matmul(queries, attention.head_size, length, batched),
            Matmul(queries, length, attention.value_head_size, batched),
        ]
        scores = frame.element_bytes * batched * queries * length
        casts = frame.element_bytes < BYTES_PER_ELEMENT["fp32"]
        casts &= not layer_code(frame.model.family, self.block).compute_softmax
        forward_passes, backward_passes = score_passes(fused=frame.stack.fused_elementwise, casts=casts)
        return Passes(
            frame.plain.forward_seconds(matmuls) + frame.times.memory_bound_seconds(forward_passes * scores),
            frame.plain.backward_seconds(matmuls) + frame.times.memory_bound_seconds(backward_passes * scores),
        )

    def _fused_core(self, flops: Array, *, backward: bool = False) -> Array:
        """Seconds of one pass of a fused kernel, and of the casts around one in 8 bits."""
        frame, attention, head_size = self.frame, self.block.attention, self.block.attention.head_size
        sizes: dict[str, float] = {"head_size": head_size, "value_size": attention.value_head_size}
        keys = document_length(frame.training)
        seconds = frame.times.attention_seconds(flops, **sizes, seq_len=keys, backward=backward)
        if isinstance(attention, LinearAttention):
            moved = recurrence_moved_bytes(attention, frame.element_bytes, backward=backward) * frame.tokens
            seconds = np.maximum(seconds, frame.times.memory_bound_seconds(moved / frame.candidates.tp))
        if not frame.training.fp8_attention:
            return seconds
        job = (frame.times.node.device, frame.training, seconds, flops)
        casts = fp8_attention_cast_bytes(self.block, frame.training, backward=backward)
        moved = frame.times.memory_bound_seconds(casts * frame.tokens / frame.candidates.tp)
        return fp8_attention_seconds(*job, head_size=head_size, backward=backward) + moved

    @property
    def uneven(self) -> Passes:
        """By how much passes of a microbatch vary with its documents: one standard deviation, of its sequences together."""
        frame = self.frame
        attention = self.block.attention
        even = isinstance(attention, LinearAttention | NoAttention)  # its work is that of its tokens
        if even or frame.training.attention != "flash":  # unfused attention computes every score and masks it
            return Passes(0 * self.passes.forward, 0 * self.passes.backward)
        of_sequence = unevenness(frame.training, attention.window)
        share = of_sequence / np.sqrt(frame.candidates.micro_batch)
        return Passes(share * self.passes.forward, share * self.passes.backward)
