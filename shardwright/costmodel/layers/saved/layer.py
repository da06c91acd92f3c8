"""The sum over one layer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shardwright.base import Array, Number
from shardwright.costmodel.layers.operators import keeps_attention_input, keeps_ffn_input
from shardwright.specs import RecomputeModule, TrainingSpec
from shardwright.specs.model import Block, MixtureOfExperts, MultiHeadAttention

from .attention import AttentionTensors
from .families import LayerCode
from .feed_forward import FeedForwardTensors
from .norms import norm_bytes, norm_weight_bytes


@dataclass(frozen=True)
class SavedTensors:
    """Bytes that autograd keeps of one layer and microbatch on one rank, shapes (N,).

    `tokens`: of the microbatch on the rank. `single`: whether it is one sequence. `tp`, `sequence_split`: ranks over which
    heads and columns, and the tokens of norms, are split. `copies`, `computed`, `columns`: as in `FeedForwardTensors`.
    """

    block: Block
    code: LayerCode
    training: TrainingSpec
    hidden: int
    tokens: Array
    single: Array
    tp: Array
    sequence_split: Array
    copies: Array
    computed: Array
    columns: Array

    @property
    def kept(self) -> Array:
        """Bytes without recompute."""
        return self._with(self._attention.split)

    @property
    def kept_selective(self) -> Array:
        """Bytes where the attention core is repeated."""
        return self._with(self._attention.recomputed_split)

    def freed_by(self, modules: Sequence[RecomputeModule]) -> Array:
        """Bytes that are not kept where each of `modules` runs again from its inputs, as the executor repeats them."""
        return np.asarray(sum((self._freed(module) for module in modules), np.zeros_like(self.tokens, dtype=float)))

    def _freed(self, module: RecomputeModule) -> Array:
        ffn, routes = self._ffn, isinstance(self.block.ffn, MixtureOfExperts)
        match module:
            case "core_attn":
                return self.kept - self.kept_selective
            case "layernorm":
                return self.tokens * self._norm_tensors + self._stream_weight_bytes
            case "mlp" if not routes:
                return self.inner
            case "moe" if routes:
                return np.asarray(self.tokens * (ffn.inner + ffn.routed) + ffn.layer_bytes)
            case "moe_act" if routes:
                return np.asarray(self.tokens * ffn.activated_experts)
            case "shared_experts" if routes:
                return np.asarray(self.tokens * ffn.shared)
        return np.zeros_like(self.tokens, dtype=float)

    @property
    def _norm_tensors(self) -> Array:
        """Bytes per token of the norms around attention and feed-forward, beside their inputs."""
        inputs = 1 if self.block.parallel else self.block.norm_count
        return np.asarray((self._norms - inputs * self._element * self.hidden) / np.asarray(self.sequence_split))

    @property
    def inner(self) -> Array:
        """The part that is as wide as the feed-forward, free again once the backward pass reaches attention."""
        return self.tokens * self._ffn.inner

    def _with(self, attention: Array) -> Array:
        ffn, split = self._ffn, np.asarray(self.tp, dtype=float)
        token_bytes = self._stream + self._attention.whole + attention / split + ffn.inner + ffn.routed
        return np.asarray(self.tokens * token_bytes + self._norm_weight_bytes + self._table_bytes + ffn.layer_bytes)

    @property
    def _stream(self) -> Array:
        """Bytes per token of the norms, on a part of the sequence, and of the matmuls' inputs, gathered whole."""
        block, trainable = self.block, self.training.trainable
        attention, ffn = keeps_attention_input(block, trainable), keeps_ffn_input(block, trainable)
        inputs = attention or ffn if block.parallel and block.norm_count == 1 else attention + ffn
        return np.asarray(self._norms / np.asarray(self.sequence_split) + inputs * self._element * self.hidden)

    @property
    def _norms(self) -> Number:
        """Bytes per token of the norms around attention and feed-forward, on all ranks that split the sequence."""
        block, element, trained = self.block, self._element, self.training.trainable.trains_layer_weights
        norms = block.norm_count * norm_bytes(block.norm, self.code, element, self.hidden, trained=trained)
        if block.parallel and block.norm.kind == "layernorm":  # they read the same tensor
            norms -= (block.norm_count - 1) * element * self.hidden
        return norms

    @property
    def _stream_weight_bytes(self) -> float:
        return self.block.norm_count * norm_weight_bytes(self.block.norm, self.code, self._element, self.hidden)

    @property
    def _norm_weight_bytes(self) -> float:
        block, attention = self.block, self.block.attention
        kept = self._stream_weight_bytes
        if isinstance(attention, MultiHeadAttention) and attention.qk_norm != "none":
            rows = attention.heads + attention.kv_heads if attention.qk_norm == "each_head" else 2
            kept += rows * norm_weight_bytes(block.norm, self.code, self._element, attention.head_size)
        return kept

    @property
    def _table_bytes(self) -> float:
        """Bytes of the layer's own rotary tables, whatever the number of sequences."""
        element = 4 if self.code.fp32_tables else self._element
        return self.code.rotary_tables * self.block.attention.head_size * self.training.seq_len * element

    @property
    def _element(self) -> int:
        return self.training.stream_bytes_per_element

    @property
    def _attention(self) -> AttentionTensors:
        return AttentionTensors(self.block, self.code, self.training, self.single, self.tp)

    @property
    def _ffn(self) -> FeedForwardTensors:
        job = (self.block, self.code, self._element, self.hidden, self.tp)
        return FeedForwardTensors(*job, self.copies, self.computed, self.columns, self.training.trainable)
