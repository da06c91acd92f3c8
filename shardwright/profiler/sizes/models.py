"""Sizes at which a model uses attention and the memory-bound operators."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from shardwright.costmodel.layers import Moving, backward_traffic, forward_traffic, operators
from shardwright.costmodel.op_times import Operator
from shardwright.profiler.timing import Sizes
from shardwright.specs import TrainingSpec
from shardwright.specs.model import LatentAttention, ModelSpec, MultiHeadAttention

from .linears import Linear, model_linears

_TENSORS_OF_LAYER = 9  # separate projections of attention and a gated feed-forward, two norms
_TENSORS_OF_ENDS = 3
_SHARDS = (1, 8, 64)


@dataclass(frozen=True)
class Usage:
    """The model to predict, as it is trained, with the micro batches and tensor-parallel degrees of later plans."""

    model: ModelSpec
    training: TrainingSpec
    micro_batches: Sequence[int] = (1,)
    tp: Sequence[int] = (1,)

    def linears(self) -> list[Linear]:
        return model_linears(self.model, self.training, self.micro_batches, self.tp)

    def attention(self, *, latent: bool = False) -> list[Sizes]:
        """Return (batch, heads, kv_heads, length, head_size) of every layer class. A rank has whole key and value heads.

        `latent`: of layers whose heads of values are two thirds of those of keys; otherwise of all others.
        """
        found: dict[Sizes, None] = {}
        for micro_batch in self.micro_batches:
            for degree in self.tp:
                for shape in self._attention:
                    two_thirds = 3 * shape.value_head_size == 2 * shape.head_size
                    if shape.heads % degree == 0 and two_thirds == latent:
                        heads, kv_heads = shape.heads // degree, max(1, shape.kv_heads // degree)
                        sizes = (micro_batch, heads, kv_heads, self.training.seq_len, shape.head_size)
                        found[tuple(float(size) for size in sizes)] = None
        return list(found)

    def operators(self, operator: Operator, *, backward: bool) -> list[Sizes]:
        """Return (rows, width), with the tokens for an embedding's backward pass;
        empty where the model lacks the operator."""
        sizes: dict[Sizes, None] = {}
        for micro_batch in self.micro_batches:
            tokens = float(micro_batch * self.training.seq_len)
            for degree in self.tp:
                for at in self._ends(operator, tokens, degree, backward=backward):
                    sizes[at] = None
                for width in self._widths(operator, degree, backward=backward):
                    sizes[(tokens, width)] = None
        return list(sizes)

    def parameters(self) -> list[Sizes]:
        """Return (elements, tensors) of the whole model, and of its shards on 8 and on 64 ranks."""
        tensors = float(self.model.layer_count * _TENSORS_OF_LAYER + _TENSORS_OF_ENDS)
        return [(float(self.model.parameter_count // shards), tensors) for shards in _SHARDS]

    @property
    def head_size(self) -> int:
        return next((shape.head_size for shape in self._attention), 64)

    @property
    def _attention(self) -> list[MultiHeadAttention | LatentAttention]:
        """Those kinds of attention that the probes measure: no recurrences."""
        shapes = (block.attention for block in self.model.layer_classes)
        return [shape for shape in shapes if isinstance(shape, MultiHeadAttention | LatentAttention)]

    def _ends(self, operator: Operator, tokens: float, degree: int, *, backward: bool) -> Iterable[Sizes]:
        hidden, words = float(self.model.hidden_size), self.model.vocab_size / degree
        if not words.is_integer():
            return
        if operator == "cross_entropy":
            yield (tokens, words)
        if operator == "embedding":
            yield (words, hidden, tokens) if backward else (tokens, hidden)

    def _widths(self, operator: Operator, degree: int, *, backward: bool) -> Iterable[float]:
        traffic = backward_traffic if backward else forward_traffic
        for block in (half for layer in self.model.layer_classes for half in layer.halves):
            split = operators.experts_as_the_rest(degree)
            for each in traffic(block, self.model, self.training, split):
                width = _width(each, degree)
                if each.operator == operator and width >= 1 and width.is_integer():
                    yield width


def _width(moving: Moving, degree: int) -> float:
    return float(np.asarray(moving.hidden + np.asarray(moving.inner) / degree))
