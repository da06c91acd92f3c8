"""What the attention of a layer keeps, from its projections to the input of the output projection."""

from dataclasses import dataclass

import numpy as np

from shardwright.base import Array, Number
from shardwright.costmodel.layers.recurrence import recurrence_bytes
from shardwright.specs import TrainingSpec
from shardwright.specs.model import Block, LatentAttention, LinearAttention, MultiHeadAttention

from .families import LayerCode
from .norms import norm_bytes

# The memory-efficient kernel pads its log-sum-exp to a multiple of this many queries (torch, attention.cu).
_PADDED_QUERIES = 32


@dataclass(frozen=True)
class AttentionTensors:
    """Bytes per token before any split over tp, of attention with the heads of `block`.

    `single` (N,): whether the microbatch is one sequence. A reshape that merges batch and heads is then a view. `tp` (N,):
    ranks that share the heads.
    """

    block: Block
    code: LayerCode
    training: TrainingSpec
    single: Array
    tp: Array

    @property
    def split(self) -> Array:
        """Bytes per token that tp divides, without recompute."""
        if isinstance(self.block.attention, LinearAttention):
            return np.asarray(self._recurrent(self.block.attention))
        if not self.block.has_attention:
            return np.zeros(())
        return np.asarray(
            self._normed + self._gated + (self._fused if self.training.attention == "flash" else self._unfused)
        )

    @property
    def recomputed_split(self) -> Array:
        """The same where the attention core is repeated: only its inputs and its output are kept.

        A fused kernel is not repeated, because it never keeps the scores.
        """
        if self.training.attention == "flash" or not isinstance(
            self.block.attention, MultiHeadAttention | LatentAttention
        ):
            return self.split
        return np.asarray(self._normed + self._gated + self._element * (self._inputs + self._outputs))

    @property
    def whole(self) -> float:
        """Bytes per token that every tp rank keeps: the latents, normalised, and their copies for the matmuls."""
        attention = self.block.attention
        if not isinstance(attention, LatentAttention):
            return 0.0
        element, ranks = self._element, [attention.query_rank or 0, attention.kv_rank]
        trained, reads = self.training.trainable.trains_layer_weights, self.training.trainable.keeps_input
        kept = sum(
            norm_bytes(self.block.norm, self.code, element, rank, trained=trained) + element * rank * reads(module)
            for rank, module in zip(ranks, ("q_b_proj", "kv_b_proj"), strict=True)
            if rank
        )
        # fp32 latents are normalised without a copy: a view, which keeps the rotary elements beside them
        return float(kept + (element * attention.rotary_size if element == 4 else 0))

    @property
    def _element(self) -> int:
        return self.training.precision.activation_bytes_per_element

    @property
    def _outputs(self) -> int:
        return self.block.attention.heads * self.block.attention.value_head_size

    @property
    def _queries(self) -> int:
        return self.block.attention.heads * self.block.attention.head_size

    @property
    def _key_heads(self) -> int:
        return self.block.attention.heads if self.code.repeats_heads else self.block.attention.kv_heads

    @property
    def _keys(self) -> int:
        return self._key_heads * self.block.attention.head_size

    @property
    def _repeated(self) -> Array:
        """(N,): whether keys and values are copied for each query head. A rank's only key is repeated as a view."""
        return (self._key_heads < self.block.attention.heads) & (self._key_heads > np.asarray(self.tp))

    @property
    def _value_storage(self) -> Number:
        """Elements of the tensor of which the values are a view.

        Latent values lie beside the plain elements of the keys. Values of a joined projection lie beside the queries and
        keys. Rotated ones are new tensors, so that a view of the values keeps the old ones too. A rank's only value is
        repeated as a view; its key becomes a new tensor by rotation.
        """
        attention = self.block.attention
        if isinstance(attention, LatentAttention):
            return attention.heads * (attention.plain_size + attention.value_head_size)
        assert isinstance(attention, MultiHeadAttention), "linear attention has no values as wide as its keys"
        if self.code.repeats_heads:
            return np.where(attention.kv_heads > np.asarray(self.tp), self._outputs, attention.kv_width)
        joined = self.code.joined_projection and self.code.rotates
        return self._queries + 2 * self._keys if joined else self._keys

    @property
    def _inputs(self) -> Number:
        """Elements of queries, keys and values as attention takes them."""
        return self._queries + self._keys + self._value_storage

    @property
    def _normed(self) -> Number:
        """Bytes of norms over the heads of queries and keys."""
        attention, norm = self.block.attention, self.block.norm
        if not isinstance(attention, MultiHeadAttention) or attention.qk_norm == "none":
            return 0.0
        rows = 2 if attention.qk_norm == "whole" else attention.heads + attention.kv_heads
        trained = self.training.trainable.trains_layer_weights
        return norm_bytes(
            norm, self.code, self._element, attention.query_width + attention.kv_width, rows, trained=trained
        )

    @property
    def _gated(self) -> float:
        """Bytes of a gate after its sigmoid, and of the gated output beside the output."""
        attention = self.block.attention
        gate = isinstance(attention, MultiHeadAttention) and attention.output_gate
        return self._element * 2.0 * self._outputs * gate

    def _recurrent(self, attention: LinearAttention) -> Number:
        norm = norm_bytes(
            self.block.norm,
            self.code,
            self._element,
            attention.value_width,
            trained=self.training.trainable.trains_layer_weights,
        )
        return recurrence_bytes(attention, self._element, norm, one_kernel=True)

    @property
    def _keeps_output(self) -> bool:
        """Whether the gradient of a weight reads the input of the output projection."""
        return self.training.trainable.keeps_input("o_proj")

    @property
    def _fused(self) -> Number:
        """Bytes of a fused kernel: queries, keys, values, output and an fp32 log-sum-exp for each query.

        torch's flash kernel takes neither a mask nor values of another size than keys. Its memory-efficient kernel does. For
        a mask transformers repeats grouped keys (integrations/sdpa_attention.py). A window needs a mask. A flash kernel
        lays its output out like the queries, the other one as the output projection reads it.
        """
        attention, seq_len, queries = self.block.attention, self.training.seq_len, self._queries
        masked = attention.window is not None and attention.window < seq_len
        copied = queries + self._outputs
        kept = queries + self._outputs + np.where(masked & self._repeated, copied, self._inputs - queries)
        if masked or attention.value_head_size != attention.head_size:
            padded = -(-seq_len // _PADDED_QUERIES) * _PADDED_QUERIES
            return self._element * kept + 4.0 * attention.heads * padded / seq_len
        turned = self._outputs if self.code.joins_rotated and self._keeps_output else 0
        return self._element * (kept + turned) + 4.0 * attention.heads

    @property
    def _unfused(self) -> Number:
        """Bytes of attention in separate kernels: queries, repeated keys and values, the scores and the output.

        A batched matmul copies its operands into the order of heads. Keys and values of a single sequence stay views where
        transformers does not copy them.
        """
        viewed = self.single & ~self._repeated
        keys = np.where(viewed, self._keys, self._queries)
        values = np.where(viewed, self._value_storage, self._outputs)
        scores = self.block.attention.heads * self._score_bytes
        return self._element * (self._queries + keys + values + self._outputs * self._keeps_output) + scores

    @property
    def _score_bytes(self) -> float:
        """Bytes of one query's scores of one head, over the full length."""
        columns, element, code = float(self.training.seq_len), self._element, self.code
        if code.sinks:  # the index of the maximum is kept beside them
            return element * (columns + 1) + 8.0
        softmax = element if code.compute_softmax or element == 4 else 4 + element
        return (softmax + element * code.caps_scores) * columns
