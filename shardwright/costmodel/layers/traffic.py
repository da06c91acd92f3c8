"""The memory-bound operators of one pass of a layer: the elements of each, and its reads and writes.

Symbols are as in operators.py.
"""

from dataclasses import dataclass

import numpy as np

from shardwright.base import Number
from shardwright.costmodel.op_times import OPERATOR_PASSES, Operator
from shardwright.specs import Stack
from shardwright.specs.model import Block, FeedForward, LatentAttention, ModelSpec

from .operators import ExpertSplit, computed_width, experts_as_the_rest, norm_operator, normalises_heads


@dataclass(frozen=True)
class Moving:
    """`count` runs of one operator on elements of each token.

    `hidden`: elements of the hidden state, split along the sequence where that is parallel. `inner`: elements between
    the matmuls of a sublayer, split over tp.
    """

    operator: Operator
    hidden: Number = 0.0
    inner: Number = 0.0
    count: int = 1
    backward: bool = False

    @property
    def passes(self) -> float:
        """Reads and writes of each element."""
        return OPERATOR_PASSES[self.operator][self.backward]


def forward_traffic(
    block: Block, model: ModelSpec, stack: Stack, experts: ExpertSplit | None = None
) -> tuple[Moving, ...]:
    """Norms, residuals, dropout; rotary embedding, head norms, activation, expert dispatch.

    An eager RMS norm upcasts, squares, scales and casts back: 6 passes over its input. A fused norm
    (a layer norm always is) reads and writes once. A residual addition reads two and writes one. An unfused dropout
    reads and writes one more. An eager gated activation is two kernels, SiLU and product; a fused one reads two and
    writes one. The output of attention is copied from the layout of heads to that of the hidden state.
    """
    attention, hidden = block.attention, model.hidden_size
    split = experts or experts_as_the_rest(1)
    sublayers = 1 if block.parallel else 2
    norm, gated, rotary = norm_operator(block.norm, stack), _gated(stack), _rotary(stack)
    heads = (attention.heads + attention.kv_heads) * attention.head_size
    moving = [
        Moving(norm, hidden=hidden, count=block.norm_count),
        Moving("addition", hidden=hidden, count=sublayers),
        Moving("copy", inner=attention.heads * attention.value_head_size),
        Moving("copy", inner=_dispatched_elements(block, hidden, split)),
    ]
    if stack.dropout and not stack.fused_elementwise:
        moving.append(Moving("dropout", hidden=hidden, count=sublayers))
    if model.rotary:
        moving.append(Moving(rotary, inner=heads))
    if normalises_heads(block):
        moving.append(Moving(norm, inner=heads))
    if block.ffn.gated:
        moving.append(Moving(gated, inner=computed_width(block, split)))
    else:
        moving.append(Moving("activation", inner=computed_width(block, split)))
    return tuple(moving)


def backward_traffic(
    block: Block, model: ModelSpec, stack: Stack, experts: ExpertSplit | None = None
) -> tuple[Moving, ...]:
    """The gradients of the same operators, and the operators that only the backward pass has.

    A fused norm reads the gradient and its input for each of its two gradients, and writes one: 5. An eager RMS norm
    takes about 14. The two gradients of a residual are added: 3. A gated activation's gradient reads three and writes
    two; eager kernels take 9 in all. That of a plain activation reads two and writes one. Attention reads its output
    and the gradient of it once more (Dao 2023, algorithm 2), and copies back its layout. The gradients of queries, keys
    and values are joined: 2 each. Gate and up projection each give a gradient of their input, and these are added: 3. A
    bias reads the gradient of its output.
    """
    attention, ffn, hidden = block.attention, block.ffn, model.hidden_size
    split = experts or experts_as_the_rest(1)
    sublayers = 1 if block.parallel else 2
    norm, gated, rotary = norm_operator(block.norm, stack), _gated(stack), _rotary(stack)
    heads = (attention.heads + attention.kv_heads) * attention.head_size
    values, outputs = attention.kv_heads * attention.value_head_size, attention.heads * attention.value_head_size
    bias = _biased_outputs(block, hidden)
    moving = [
        Moving(norm, hidden=hidden, count=block.norm_count, backward=True),
        Moving("addition", hidden=hidden, count=sublayers, backward=True),
        Moving("copy", inner=heads + values, backward=True),
        Moving("copy", inner=outputs, count=2, backward=True),
        Moving("copy", inner=_dispatched_elements(block, hidden, split), backward=True),
        Moving("column_sum", hidden=bias.hidden, inner=bias.inner, backward=True),
    ]
    if stack.dropout:
        moving.append(Moving("dropout", hidden=hidden, count=sublayers, backward=True))
    if model.rotary:
        moving.append(Moving(rotary, inner=heads, backward=True))
    if normalises_heads(block):
        moving.append(Moving(norm, inner=heads, backward=True))
    width = computed_width(block, split)
    if ffn.gated:
        moving.append(Moving(gated, inner=width, backward=True))
        moving.append(Moving("addition", hidden=hidden, backward=True))
    else:
        moving.append(Moving("activation", inner=width, backward=True))
    return tuple(moving)


@dataclass(frozen=True)
class _Biased:
    """Elements per token of the matmul outputs that have a bias."""

    hidden: Number
    inner: Number


def _biased_outputs(block: Block, hidden: int) -> _Biased:
    attention, ffn = block.attention, block.ffn
    if isinstance(attention, LatentAttention):
        return _Biased(hidden * attention.bias, 0.0)
    up = (2 if ffn.gated else 1) * ffn.active_width
    inner = attention.qkv_bias * (attention.query_width + 2 * attention.kv_width) + ffn.bias * up
    return _Biased((attention.output_bias + ffn.bias) * hidden, inner)


def _gated(stack: Stack) -> Operator:
    return "gated_activation" if stack.fused_elementwise else "eager_gated_activation"


def _rotary(stack: Stack) -> Operator:
    return "rotary" if stack.fused_elementwise else "eager_rotary"


def _dispatched_elements(block: Block, hidden: int, experts: ExpertSplit) -> Number:
    """Elements per token that are sorted by expert and put back, in either pass.

    Where experts lie on other ranks, these ranks sort the received tokens once more.
    """
    if isinstance(block.ffn, FeedForward):
        return 0.0
    sorts = np.where(np.asarray(experts.ep) > 1, 4.0, 2.0)
    return sorts * hidden * experts.copies(1.0, block.ffn.top_k, 1)
