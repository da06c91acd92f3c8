"""The memory-bound operators of one pass of a layer: the elements of each, and its reads and writes.

Symbols are as in operators.py.
"""

from dataclasses import dataclass

import numpy as np

from shardwright.base import Number
from shardwright.costmodel.op_times import OPERATOR_PASSES, Operator
from shardwright.specs import Stack, TrainingSpec
from shardwright.specs.model import (
    Block,
    FeedForward,
    LatentAttention,
    Lightning,
    LinearAttention,
    Mamba2,
    MixtureOfExperts,
    ModelSpec,
    MultiHeadAttention,
)

from .frozen import unneeded_norm_passes
from .operators import (
    ExpertSplit,
    computed_width,
    experts_as_the_rest,
    fuses_activation,
    norm_operator,
    normalises_heads,
)
from .saved import layer_code

# Reads and writes of each element in 16 bits, forward and backward, counted on torch
# (tests/costmodel/layers/test_counted_traffic.py): of the clamped activation of gpt-oss, for each column of an expert; of a
# bias that transformers gathers for each token and adds in place (integrations/moe.py), without the sum that
# `_biased_outputs` counts; and of one that Megatron-Core multiplies by the token's weight and adds expert by expert.
#
# Of Megatron-Core's unfused permutation (moe_utils.py): the product with the weights, zeros, scatter_add and index_select for
# eight experts a token, less the two passes each way that `dispatched_elements` counts.
_UNFUSED_PERMUTATION_PASSES = (0.5, 5.5)
# The same of torchtitan (models/moe/moe.py): gather, casts to fp32 and back around a product with the weights, and scatter_add, which
# copies its sum first.
_FP32_PERMUTATION_PASSES = (8.4, 17.5)
# Of means of tokens: a sum reads each token and its sum and writes that; what came back is read and written for each token; and a sum of
# two of that size reads two and writes one. Eight passes, of which a copy has two. The gradients take the same ways back.
_AVERAGING_COPIES = 4.0
_CLAMPED_PASSES, _BIAS_PASSES, _BIAS_PASSES_BY_EXPERT = (16.0, 43.0), (4.0, 1.0), (14.0, 20.0)


@dataclass(frozen=True)
class Moving:
    """`count` runs of one operator on elements of each token.

    `count` need not be whole: a chain of kernels counts as runs of an operator that moves as much. `hidden`: elements of the hidden state, split along the sequence where that is parallel. `inner`: elements between
    the matmuls of a sublayer, split over tp.
    """

    operator: Operator
    hidden: Number = 0.0
    inner: Number = 0.0
    count: float = 1
    backward: bool = False


def forward_traffic(
    block: Block, model: ModelSpec, training: TrainingSpec, experts: ExpertSplit | None = None
) -> tuple[Moving, ...]:
    """Norms, residuals, dropout; rotary embedding, head norms, activation, expert dispatch.

    A residual addition reads two and writes one. An unfused dropout reads and writes one more. An eager gated
    activation is two kernels, SiLU and product; a fused one reads two and writes one. A fused attention kernel reads
    and writes heads where they lie in the hidden state. The output of unfused attention is copied there. Keys and values
    that are copied for each query head are read once and written for each.
    """
    attention, hidden, stack = block.attention, model.hidden_size, training.software
    split = experts or experts_as_the_rest(1)
    sublayers = block.sublayers
    norm, rotary = norm_operator(block.norm, stack), _rotary(stack)
    heads = (attention.heads + attention.kv_heads) * attention.head_size
    moving = [
        Moving(norm, hidden=hidden, count=block.norm_count),
        Moving("addition", hidden=hidden, count=sublayers),
        Moving("copy", inner=_copied_output(block, training)),
        Moving("copy", inner=_repeated_heads(block, stack)),
        Moving("copy", inner=dispatched_elements(block, hidden, split)),
    ]
    if stack.dropout and not stack.fused_elementwise:
        moving.append(Moving("dropout", hidden=hidden, count=sublayers))
    if _rotates(block, model):
        moving.append(Moving(rotary, inner=heads))
    if normalises_heads(block):
        moving.append(Moving(norm, inner=heads))
    moving.append(_activation(block, stack, split, backward=False))
    return (
        *moving,
        *_around_recurrence(block, stack, backward=False),
        *_around_experts(block, hidden, stack, split, backward=False),
    )


def backward_traffic(
    block: Block, model: ModelSpec, training: TrainingSpec, experts: ExpertSplit | None = None
) -> tuple[Moving, ...]:
    """The gradients of the same operators, and the operators that only the backward pass has.

    A fused norm reads the gradient and its input for each of its two gradients, and writes one: 5. The two gradients of
    a residual are added: 3. A gated activation's gradient reads three and writes two; eager kernels take 9 in all. That
    of a plain activation reads two and writes one. Matmuls that share an input each give a gradient of it, and each
    further one is added. Gradients of queries, keys and values are joined where one matmul made them; otherwise those
    of rotated heads are copied to the layout of the hidden state. A bias reads the gradient of its output. Frozen norms and
    biases have no gradients of weights. (What the
    kernels around attention's backward move is part of `OpTimes.attention_seconds`.)
    """
    attention, hidden, stack = block.attention, model.hidden_size, training.software
    split = experts or experts_as_the_rest(1)
    sublayers = block.sublayers
    norm, rotary = norm_operator(block.norm, stack), _rotary(stack)
    heads = (attention.heads + attention.kv_heads) * attention.head_size
    bias, trained = _biased_outputs(block, hidden, split), training.trainable.trains_layer_weights
    norms = 1.0 if trained else 1 - unneeded_norm_passes(norm) / OPERATOR_PASSES[norm][1]
    moving = [
        Moving(norm, hidden=hidden, count=block.norm_count * norms, backward=True),
        Moving("addition", hidden=hidden, count=sublayers, backward=True),
        *_shared_inputs(block, model, stack),
        Moving("copy", inner=_gathered_gradients(block, model, stack), backward=True),
        Moving("copy", inner=_copied_output(block, training), backward=True),
        Moving("copy", inner=_repeated_heads(block, stack), backward=True),
        Moving("copy", inner=dispatched_elements(block, hidden, split), backward=True),
        Moving("column_sum", hidden=bias.hidden * trained, inner=bias.inner * trained, backward=True),
    ]
    if stack.dropout:
        moving.append(Moving("dropout", hidden=hidden, count=sublayers, backward=True))
    if _rotates(block, model):
        moving.append(Moving(rotary, inner=heads, backward=True))
    if normalises_heads(block):
        moving.append(Moving(norm, inner=heads, count=norms, backward=True))
    moving.append(_activation(block, stack, split, backward=True))
    return (
        *moving,
        *_around_recurrence(block, stack, backward=True),
        *_around_experts(block, hidden, stack, split, backward=True),
    )


def joins_attention(block: Block, model: ModelSpec, stack: Stack) -> bool:
    """Whether one matmul makes queries, keys and values."""
    return stack.joined_projections or layer_code(model.family, block).joined_projection


def _copied_output(block: Block, training: TrainingSpec) -> float:
    """Elements of attention's output that are copied from the layout of heads to that of the hidden state."""
    if training.attention == "flash" or isinstance(block.attention, LinearAttention):
        return 0.0
    return block.attention.heads * block.attention.value_head_size


def _repeated_heads(block: Block, stack: Stack) -> float:
    """Elements of a copy that moves as much as repeating keys and values, or as adding up their gradients.

    A repeated tensor is read once and written for each query head. A compiler repeats the keys where it rotates them,
    so that these are only written more often.
    """
    attention = block.attention
    if not stack.repeats_heads or attention.kv_heads == attention.heads or isinstance(attention, Mamba2):
        return 0.0
    width = attention.heads if stack.fused_elementwise else attention.heads + attention.kv_heads
    return width * (attention.head_size + attention.value_head_size) / 2


def _gathered_gradients(block: Block, model: ModelSpec, stack: Stack) -> float:
    """Elements of the gradients of queries, keys and values that are copied. A compiler writes rotated ones in place."""
    attention = block.attention
    if isinstance(attention, Mamba2):  # its kernel writes them into one tensor
        return 0.0
    heads = (attention.heads + attention.kv_heads) * attention.head_size
    if joins_attention(block, model, stack):
        return heads + attention.kv_heads * attention.value_head_size
    return heads if _rotates(block, model) and not stack.fused_elementwise else 0.0


def _shared_inputs(block: Block, model: ModelSpec, stack: Stack) -> tuple[Moving, ...]:
    """Sums of the gradients of inputs that several matmuls read.

    Each addition is a kernel of its own. A compiler adds them in the norm's kernel, which reads each once more.
    """
    projections = 3 if isinstance(block.attention, MultiHeadAttention) else 2
    if isinstance(block.attention, Mamba2) or not block.has_attention:
        projections = 1
    further = 0 if joins_attention(block, model, stack) else projections - 1
    further += block.ffn.gated and not stack.joined_projections
    operator: Operator = "column_sum" if stack.fused_elementwise else "addition"
    return (Moving(operator, hidden=model.hidden_size, count=further, backward=True),) if further else ()


@dataclass(frozen=True)
class _Biased:
    """Elements per token of the matmul outputs that have a bias."""

    hidden: Number
    inner: Number


def _biased_outputs(block: Block, hidden: int, split: ExpertSplit) -> _Biased:
    attention, ffn = block.attention, block.ffn
    if isinstance(attention, LatentAttention):
        return _Biased(hidden * attention.bias, 0.0)
    if isinstance(attention, LinearAttention):
        biased = isinstance(attention, Mamba2) and attention.bias
        return _Biased(hidden * biased, attention.input_width * biased if isinstance(attention, Mamba2) else 0.0)
    routed, width = np.zeros(()), np.asarray(ffn.active_width, dtype=float)
    if isinstance(ffn, MixtureOfExperts):  # experts add theirs to each token that they get
        routed = ffn.computed_top_k / split.merged(ffn)
        width = routed * ffn.expert_width + ffn.shared_width
    up = (2 if ffn.gated else 1) * width
    inner, whole = ffn.bias * up, ffn.bias * (not isinstance(ffn, MixtureOfExperts))
    if isinstance(attention, MultiHeadAttention):
        inner = inner + attention.qkv_bias * (attention.query_width + 2 * attention.kv_width)
        whole += attention.output_bias
    return _Biased(whole * hidden, inner + ffn.bias * routed * hidden)


def _activation(block: Block, stack: Stack, split: ExpertSplit, *, backward: bool) -> Moving:
    """The activation between the matmuls of a feed-forward. That of clamped experts is a chain where nothing fuses it."""
    width = computed_width(block, split)
    if not block.ffn.gated:
        return Moving("activation", inner=width, backward=backward)
    if fuses_activation(block, stack):
        return Moving("gated_activation", inner=width, backward=backward)
    chain: Operator = "eager_gated_activation"
    if isinstance(block.ffn, FeedForward) or not block.ffn.clamped:
        return Moving(chain, inner=width, backward=backward)
    runs = _CLAMPED_PASSES[backward] / OPERATOR_PASSES[chain][backward]
    return Moving(chain, inner=width, count=runs, backward=backward)


def _around_experts(
    block: Block, hidden: int, stack: Stack, split: ExpertSplit, *, backward: bool
) -> tuple[Moving, ...]:
    """What sorting operator by operator moves beyond one kernel each way, and additions of the biases of experts: transformers
    writes a bias for each token and adds it behind both matmuls."""
    ffn = block.ffn
    if isinstance(ffn, FeedForward):
        return ()
    outputs, moved = hidden * split.copies(1.0, ffn.computed_top_k, 1), []
    if stack.weighs_tokens_in_fp32:
        moved.append((outputs, _FP32_PERMUTATION_PASSES))
    elif not stack.fused_permutation:
        moved.append((outputs, _UNFUSED_PERMUTATION_PASSES))
    if ffn.bias and stack.transformers_layers:
        columns = (1 + ffn.gated) * (computed_width(block, split) - ffn.shared_width)
        moved.append((columns + hidden * split.computed(ffn, 1.0, 1), _BIAS_PASSES))
    elif ffn.bias and stack.adds_biases_by_expert:
        moved.append((outputs, _BIAS_PASSES_BY_EXPERT))
    return tuple(Moving("copy", inner=inner, count=passes[backward] / 2, backward=backward) for inner, passes in moved)


def _around_recurrence(block: Block, stack: Stack, *, backward: bool) -> tuple[Moving, ...]:
    """What linear attention moves beside its recurrence (recurrence/memory.py): the convolution with its activation, or the activation
    alone; and the norm with the gate. Each is one kernel, but for the norm and the gate of lightning attention."""
    attention = block.attention
    if not isinstance(attention, LinearAttention):
        return ()
    convolved = 2 * attention.key_width + attention.value_width
    first = Moving("activation", inner=convolved, backward=backward)
    if not isinstance(attention, Lightning):
        return first, Moving("gated_activation", inner=attention.value_width, backward=backward)
    gate: Operator = "gated_activation" if stack.fused_elementwise else "eager_gated_activation"
    norm = norm_operator(block.norm, stack)
    return (
        first,
        Moving(norm, inner=attention.value_width, backward=backward),
        Moving(gate, inner=attention.value_width, backward=backward),
    )


def _rotates(block: Block, model: ModelSpec) -> bool:
    return model.rotary and isinstance(block.attention, MultiHeadAttention | LatentAttention)


def _rotary(stack: Stack) -> Operator:
    return "rotary" if stack.fused_elementwise else "eager_rotary"


def dispatched_elements(block: Block, hidden: int, experts: ExpertSplit) -> Number:
    """Elements per token that are sorted by expert and put back, in either pass.

    Where experts lie on other ranks, these ranks sort the received tokens once more. Where means of tokens travel, a rank sums up its
    tokens, spreads what comes back and adds what each differs by: as much as `_AVERAGING_COPIES` of the tokens.
    """
    if isinstance(block.ffn, FeedForward):
        return 0.0
    merged = experts.merged(block.ffn)
    there = np.where(np.asarray(experts.ep) > 1, 2.0, 0.0) / merged
    averaging = np.where(np.asarray(experts.per_centroid) > 1, _AVERAGING_COPIES, 0.0)
    return (2.0 + there + averaging) * hidden * experts.copies(1.0, block.ffn.computed_top_k, 1)
