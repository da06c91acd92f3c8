"""The memory-bound operators of a training run.

The eager ones are those of transformers' Llama layer; the fused ones are torch's own kernels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from shardwright.costmodel.op_times import Operator
from shardwright.profiler.timing import random_tensor

_EPSILON = 1e-6
_DROPPED_SHARE = 0.1
_IGNORED_LABEL = -100


@dataclass(frozen=True)
class Operands:
    """Makes the operands of an operator.

    `head_size`: of the heads that are rotated or copied to another layout. `vocabulary`: rows of the table that an
    embedding reads.
    """

    dtype: torch.dtype
    device: torch.device
    head_size: int = 64
    vocabulary: int = 32000

    def leaf(self, *shape: int) -> Tensor:
        """Return a tensor with a gradient."""
        return random_tensor(shape, self.dtype, self.device).requires_grad_()

    def heads(self, rows: int, count: int) -> Tensor:
        """Return (1, heads, rows, head size) with a gradient, in memory
        (rows, heads, head size) as a projection's output."""
        shape = (1, rows, count, self.head_size)
        return random_tensor(shape, self.dtype, self.device).transpose(1, 2).requires_grad_()

    def plain(self, *shape: int) -> Tensor:
        return random_tensor(shape, self.dtype, self.device)

    def indices(self, count: int, below: int) -> Tensor:
        return torch.randint(0, below, (count,), device=self.device)


class Graph(NamedTuple):
    """The forward work, and the tensors whose gradients its backward computes."""

    forward: Callable[[], Tensor | tuple[Tensor, ...]]
    leaves: tuple[Tensor, ...] = ()


Build = Callable[[Operands, int, int], Graph]


def _rmsnorm(new: Operands, rows: int, width: int) -> Graph:
    x, weight = new.leaf(rows, width), new.leaf(width)
    return Graph(lambda: functional.rms_norm(x, (width,), weight, _EPSILON), (x, weight))


def _eager_rmsnorm(new: Operands, rows: int, width: int) -> Graph:
    """transformers' LlamaRMSNorm; its weight is in the compute format, as FSDP casts it."""
    x, weight = new.leaf(rows, width), new.leaf(width)

    def norm() -> Tensor:
        wide = x.to(torch.float32)
        variance = wide.pow(2).mean(-1, keepdim=True)
        wide = wide * torch.rsqrt(variance + _EPSILON)
        return weight * wide.to(x.dtype)

    return Graph(norm, (x, weight))


def _layernorm(new: Operands, rows: int, width: int) -> Graph:
    x, weight, bias = new.leaf(rows, width), new.leaf(width), new.leaf(width)
    return Graph(lambda: functional.layer_norm(x, (width,), weight, bias), (x, weight, bias))


def _addition(new: Operands, rows: int, width: int) -> Graph:
    residual, output = new.leaf(rows, width), new.leaf(rows, width)
    return Graph(lambda: residual + output, (residual, output))


def _dropout(new: Operands, rows: int, width: int) -> Graph:
    x = new.leaf(rows, width)
    return Graph(lambda: functional.dropout(x, _DROPPED_SHARE, training=True), (x,))


def _rotary(new: Operands, rows: int, width: int) -> Graph:
    """torch has no fused rotation. One product with a table reads and writes equally much in one kernel."""
    x, cosine = new.heads(rows, width // new.head_size), new.plain(1, 1, rows, new.head_size)
    return Graph(lambda: x * cosine, (x,))


def _eager_rotary(new: Operands, rows: int, width: int) -> Graph:
    """transformers' apply_rotary_pos_emb on queries and keys, with `width` elements of both together."""
    heads = width // new.head_size
    tables = [new.plain(1, rows, new.head_size) for _ in range(2)]
    both = [new.heads(rows, count) for count in (heads - heads // 2, heads // 2) if count]

    def rotate() -> tuple[Tensor, ...]:
        cosine, sine = (table.unsqueeze(1) for table in tables)
        return tuple((x * cosine) + (_rotate_half(x) * sine) for x in both)

    return Graph(rotate, tuple(both))


def _rotate_half(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


def _gated_activation(new: Operands, rows: int, width: int) -> Graph:
    """torch's fused gate is that of the sigmoid, which reads and writes as much as that of SiLU."""
    both = new.leaf(rows, 2 * width)
    return Graph(lambda: functional.glu(both), (both,))


def _eager_gated_activation(new: Operands, rows: int, width: int) -> Graph:
    gate, up = new.leaf(rows, width), new.leaf(rows, width)
    return Graph(lambda: functional.silu(gate) * up, (gate, up))


def _activation(new: Operands, rows: int, width: int) -> Graph:
    x = new.leaf(rows, width)
    return Graph(lambda: functional.gelu(x), (x,))


def _copy(new: Operands, rows: int, width: int) -> Graph:
    """Copy from head order to token order."""
    x = new.leaf(1, width // new.head_size, rows, new.head_size)
    return Graph(lambda: x.transpose(1, 2).contiguous(), (x,))


def _copy_back(new: Operands, rows: int, width: int) -> Graph:
    x = new.plain(1, rows, width // new.head_size, new.head_size)
    return Graph(lambda: x.transpose(1, 2).contiguous())


def _sum_of_gradients(new: Operands, rows: int, width: int) -> Graph:
    """The sum of a residual's two gradients: autograd adds them into a third tensor."""
    one, other = new.plain(rows, width), new.plain(rows, width)
    return Graph(lambda: one + other)


def _column_sum(new: Operands, rows: int, width: int) -> Graph:
    gradient = new.plain(rows, width)
    return Graph(lambda: gradient.sum(0))


def _embedding(new: Operands, rows: int, width: int) -> Graph:
    table, tokens = new.leaf(new.vocabulary, width), new.indices(rows, new.vocabulary)
    return Graph(lambda: functional.embedding(tokens, table), (table,))


def _cross_entropy(new: Operands, rows: int, width: int) -> Graph:
    """As the executor's TokenLoss computes it: logits in fp32, summed over the tokens, times a factor."""
    logits, labels = new.leaf(1, rows, width), new.indices(rows, width)

    def loss() -> Tensor:
        wide = logits.float().flatten(0, 1)
        total = functional.cross_entropy(wide, labels, ignore_index=_IGNORED_LABEL, reduction="sum")
        return total * (1.0 / rows)

    return Graph(loss, (logits,))


FORWARD: Mapping[Operator, Build] = {
    "rmsnorm": _rmsnorm,
    "eager_rmsnorm": _eager_rmsnorm,
    "layernorm": _layernorm,
    "addition": _addition,
    "dropout": _dropout,
    "rotary": _rotary,
    "eager_rotary": _eager_rotary,
    "gated_activation": _gated_activation,
    "eager_gated_activation": _eager_gated_activation,
    "activation": _activation,
    "copy": _copy,
    "embedding": _embedding,
    "cross_entropy": _cross_entropy,
}
"""Those with a forward pass; `rows` x `width` are the elements that `OpTimes.operator_seconds` counts."""

BACKWARD_APART: Mapping[Operator, Build] = {
    "addition": _sum_of_gradients,
    "copy": _copy_back,
    "column_sum": _column_sum,
}
"""Backward passes that are no gradient of the forward one, as work of their own."""

BY_HEADS: frozenset[Operator] = frozenset({"rotary", "eager_rotary", "copy"})
"""Those whose width is a multiple of the head size."""
