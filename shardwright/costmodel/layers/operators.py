"""The computation of one layer: its matmuls, its attention, its memory traffic and its activations for the backward
pass.

Symbols, bound once: t = tp; b = micro batch; s = sequence length; T = b s tokens (b s / cp where cp ranks share a
sequence); h = hidden size. All may be arrays that broadcast over plans. Attention is causal: each query sees on average
`context` keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from shardwright.base import Array, Number
from shardwright.costmodel.op_times import OPERANDS, Operator
from shardwright.specs import BYTES_PER_ELEMENT, FEED_FORWARD_MODULES, Stack, Trainable, TrainingSpec
from shardwright.specs.model import (
    Block,
    FeedForward,
    LatentAttention,
    LinearAttention,
    MixtureOfExperts,
    MultiHeadAttention,
    NoAttention,
    Norm,
)

from .recurrence import recurrence_bytes

QUERY_KEY_VALUE, GATE_UP = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")
"""Linears that read one input, by the names of transformers."""
_ROUNDING = 1e-9
INPUT_MODULES = (*QUERY_KEY_VALUE, "q_a_proj", "kv_a_proj")
"""Linears of attention that read the input of the sublayer."""


@dataclass(frozen=True)
class Matmul:
    """A weight matmul: (m, k) times (k, n), `groups` times. The backward pass has two more of the same size.

    `sensitive`: it stays in the compute format where other weight matmuls use a lower one. `split`: how it is split
    over tp. By its columns, its input is gathered; by its rows, the gradient of its output is. `after_norm`: a norm writes
    its input. `shares_input`: an earlier matmul reads the same input. `experts`: its groups are experts of a mixture, also a single one.
    `modules`: the linears that it computes, by the names of transformers; none of the router.
    """

    m: Number
    k: Number
    n: Number
    groups: Number = 1
    sensitive: bool = False
    split: Literal["columns", "rows"] | None = None
    after_norm: bool = False
    shares_input: bool = False
    experts: bool = False
    modules: tuple[str, ...] = ()

    @property
    def flops(self) -> Array:
        return 2.0 * np.asarray(self.m, dtype=float) * self.k * self.n * self.groups


_TO_LATENTS = (("q_a_proj",), ("kv_a_proj",))


def attention_matmuls(block: Block, hidden: int, tokens: Number, tp: Number, *, joined: bool = True) -> list[Matmul]:
    """Return the projections of the attention, with only the columns or rows of this tp rank. Queries, keys and values come
    from one matmul where they are `joined`, else from three."""
    attention = block.attention
    if isinstance(attention, LatentAttention):
        query_width = attention.heads * attention.head_size / np.asarray(tp)
        kv_width = attention.heads * (attention.plain_size + attention.value_head_size) / np.asarray(tp)
        query = (
            [Matmul(tokens, hidden, query_width, split="columns", modules=("q_proj",))]
            if attention.query_rank is None
            else [
                Matmul(tokens, hidden, attention.query_rank, modules=("q_a_proj",)),
                Matmul(tokens, attention.query_rank, query_width, after_norm=True, modules=("q_b_proj",)),
            ]
        )
        values = attention.heads * attention.value_head_size / np.asarray(tp)
        return [
            *query,
            Matmul(tokens, hidden, attention.kv_rank + attention.rotary_size, modules=("kv_a_proj",)),
            Matmul(tokens, attention.kv_rank, kv_width, after_norm=True, modules=("kv_b_proj",)),
            Matmul(tokens, values, hidden, split="rows", modules=("o_proj",)),
        ]
    if isinstance(attention, NoAttention):
        return []
    if isinstance(attention, LinearAttention):
        split = np.asarray(tp)
        return [
            *_of_one_input(tokens, hidden, [attention.input_width / split], QUERY_KEY_VALUE),
            Matmul(tokens, attention.value_width / split, hidden, split="rows", modules=("o_proj",)),
        ]
    widths = [(1 + attention.output_gate) * attention.query_width, attention.kv_width, attention.kv_width]
    each = [width / np.asarray(tp) for width in ([sum(widths)] if joined else widths)]
    return [
        *_of_one_input(tokens, hidden, each, QUERY_KEY_VALUE),
        Matmul(tokens, attention.query_width / np.asarray(tp), hidden, split="rows", modules=("o_proj",)),
    ]


@dataclass(frozen=True)
class ExpertSplit:
    """How experts are distributed: `ep` ranks hold different ones, and `expert_tp` ranks split the columns of each.

    `load`: tokens of the most loaded rank, as a multiple of an even spread. `per_centroid`: tokens that travel and are computed as
    their mean; `own_tokens`: tokens of which one rank sends all copies. `sent`: the part of what a rank computes that is sent to it.
    """

    ep: Number
    expert_tp: Number
    load: Number = 1.0
    per_centroid: Number = 1
    own_tokens: Number = 1.0
    sent: Number = 1.0

    def copies(self, tokens: Number, top_k: float, tp: Number) -> Array:
        """Routed tokens that one rank computes: T k / t of its own number, times the ranks that split an expert."""
        return np.asarray(np.asarray(tokens, dtype=float) * top_k * self.expert_tp / np.asarray(tp) * self.load)

    def merged(self, ffn: MixtureOfExperts) -> Array:
        """Copies of tokens for each centroid of them, at least 1. A rank averages its n = T k / experts copies for one expert in
        groups of `per_centroid`, of which the last may be smaller: n / ceil(n / per_centroid)."""
        per_expert = np.asarray(self.own_tokens, dtype=float) * ffn.computed_top_k / ffn.experts
        groups = np.ceil(per_expert / np.asarray(self.per_centroid) - _ROUNDING)
        return np.where(np.asarray(self.per_centroid) > 1, np.maximum(1.0, per_expert / np.maximum(1.0, groups)), 1.0)

    def computed(self, ffn: MixtureOfExperts, tokens: Number, tp: Number) -> Array:
        """`copies` as they travel and are computed."""
        return self.copies(tokens, ffn.computed_top_k, tp) / self.merged(ffn)


def experts_as_the_rest(tp: Number) -> ExpertSplit:
    """Return experts on the mesh of the other layers: each rank holds all of them, with their columns split over tp."""
    return ExpertSplit(ep=1, expert_tp=tp)


def on_own_tokens(matmuls: Sequence[Matmul], sequence_split: Number) -> list[Matmul]:
    """Return the matmuls of an attention, those down to latents with one of `sequence_split` parts of the tokens."""
    return [
        replace(each, m=np.asarray(each.m, dtype=float) / sequence_split) if each.modules in _TO_LATENTS else each
        for each in matmuls
    ]


def ffn_matmuls(
    block: Block,
    hidden: int,
    tokens: Number,
    tp: Number,
    experts: ExpertSplit | None = None,
    *,
    joined: bool = True,
) -> list[Matmul]:
    """Return the feed-forward or expert matmuls of this tp rank. Routed tokens spread evenly over the experts of a rank.
    Gate and up projection of a dense feed-forward or of shared experts are one matmul where they are `joined`, else two."""
    ffn = block.ffn
    if not block.has_ffn:
        return []
    if isinstance(ffn, FeedForward):
        return _dense_matmuls(ffn.width, ffn.gated, hidden, tokens, tp, joined=joined)
    split = experts or experts_as_the_rest(tp)
    held = ffn.experts / np.asarray(split.ep)
    each = split.computed(ffn, tokens, tp) / held
    shared = _dense_matmuls(ffn.shared_width, ffn.gated, hidden, tokens, tp, joined=joined) if ffn.shared_width else []
    shared = [replace(matmul, after_norm=False) for matmul in shared]  # the router reads the norm's output too
    return [
        Matmul(tokens, hidden, ffn.choices, sensitive=True),
        *(
            replace(matmul, experts=True)
            for matmul in _feed_forward(ffn.expert_width, ffn.gated, hidden, each, split.expert_tp, held)
        ),
        *shared,
    ]


def of_shared_experts(matmuls: Sequence[Matmul]) -> list[Matmul]:
    """Return those among the matmuls of a layer of experts through which all tokens pass."""
    return [each for each in matmuls if not each.experts and not set(FEED_FORWARD_MODULES).isdisjoint(each.modules)]


def tiled_again(matmuls: list[Matmul], stack: Stack) -> list[Matmul]:
    """Return those matmuls of a feed-forward that its tiles repeat in the backward pass: this project's executor stops before the last,
    whose result no gradient reads; ALST runs the whole forward again (DeepSpeed, runtime/sequence_parallel/ulysses_sp.py, TiledMLP)."""
    return matmuls[:-1] if stack.transformers_layers and stack.stops_recompute_early else matmuls


def _of_one_input(tokens: Number, hidden: int, widths: Sequence[Number], modules: tuple[str, ...]) -> list[Matmul]:
    """Return matmuls of so many columns that read the output of one norm: one of all `modules`, or one of each."""
    named = [modules] if len(widths) == 1 else [(module,) for module in modules]
    first, *others = (
        Matmul(tokens, hidden, width, split="columns", after_norm=True, modules=names)
        for width, names in zip(widths, named, strict=True)
    )
    return [first, *(replace(other, shares_input=True) for other in others)]


def _dense_matmuls(width: int, gated: bool, hidden: int, tokens: Number, tp: Number, *, joined: bool) -> list[Matmul]:
    up, down = _feed_forward(width, gated, hidden, tokens, tp, 1)
    widths = [up.n] if joined or not gated else [down.k, down.k]
    return [*_of_one_input(tokens, hidden, widths, GATE_UP if gated else GATE_UP[1:]), down]


def _feed_forward(width: int, gated: bool, hidden: int, tokens: Number, tp: Number, groups: Number) -> list[Matmul]:
    local = width / np.asarray(tp)
    return [
        Matmul(tokens, hidden, (1 + gated) * local, groups, split="columns", modules=GATE_UP[not gated :]),
        Matmul(tokens, local, hidden, groups, split="rows", modules=("down_proj",)),
    ]


def norm_operator(norm: Norm, stack: Stack) -> Operator:
    """Return the operator that computes a norm: one kernel for a layer norm and for a fused RMS norm, else several."""
    if norm.kind == "layernorm" and (stack.fused_norms or not norm.written_out):
        return "layernorm"
    return "rmsnorm" if stack.fused_norms else "eager_rmsnorm"


def computed_width(block: Block, split: ExpertSplit) -> Number:
    """Feed-forward columns that process one token, over all ranks. Uneven load of experts raises the number, and means of tokens
    lower it."""
    ffn = block.ffn
    if isinstance(ffn, FeedForward):
        return ffn.width
    return ffn.computed_top_k * ffn.expert_width * split.load / split.merged(ffn) + ffn.shared_width


def normalises_heads(block: Block) -> bool:
    """Whether queries and keys are normalised separately for each head."""
    return isinstance(block.attention, MultiHeadAttention) and block.attention.qk_norm != "none"


def saved_bytes(
    block: Block,
    training: TrainingSpec,
    hidden: int,
    tp: Number,
    sequence_split: Number,
    experts: ExpertSplit | None = None,
) -> Array:
    """Bytes per token that autograd keeps of one layer, without recompute and without attention scores.

    An eager RMS norm keeps its fp32 input and its output before the weight, in fp32 where the stack says so; a fused norm
    keeps only its input. An eager gated activation also keeps its output. A dropout keeps a mask of one byte. Fused
    attention keeps an fp32 log-sum-exp a head.

    Norms and dropout are split along the sequence by `sequence_split` (tp under sequence parallelism, else 1). Inputs
    of matmuls are gathered whole, unless the stack gathers them again in the backward pass (Korthikanti et al. 2022,
    section 4.2.2). They are kept in one byte where the kernels before them write that format, and not at all where the
    stack casts them again (`Stack.recasts_operands`). Keys and values are kept as attention takes them.

    With dropout and scores this is Korthikanti et al. 2022 (arXiv 2205.05198), equation 1: 34 s b h + 5 a s^2 b.
    """
    stack, split = training.software, experts or experts_as_the_rest(tp)
    attention, element = block.attention, training.precision.activation_bytes_per_element
    weighed = (4 if stack.weighs_norms_in_fp32 else element) * training.trainable.trains_layer_weights
    eager = 4 + weighed
    norm = eager if norm_operator(block.norm, stack) == "eager_rmsnorm" else element
    masks = block.sublayers * stack.dropout
    shared = (norm * block.norm_count + masks) * hidden / np.asarray(sequence_split)
    shared = shared + norm_output_bytes(block, training, hidden, sequence_split)
    query, key = attention.heads * attention.head_size, attention.kv_heads * attention.head_size
    head_norm = norm * (query + key) if normalises_heads(block) else 0
    key_heads = attention.heads if stack.repeats_heads else attention.kv_heads
    key_value = key_heads * (attention.head_size + attention.value_head_size)
    output = attention.heads * attention.value_head_size
    core: Number = _core_operand_bytes(training, query + key_value, output) + _recast(training) * output + head_norm
    if isinstance(attention, LinearAttention):
        core = recurrence_bytes(attention, element, element * attention.value_width, one_kernel=False)
    elif training.attention == "unfused" and not training.trainable.keeps_input("o_proj"):
        core = core - element * output  # the matmul before it keeps its inputs alone
    if isinstance(block.ffn, MixtureOfExperts):
        shared = shared + routed_bytes(block, training, hidden, tp, split)
    log_sums = core_bytes(block, training, tp) if training.attention == "flash" else 0.0
    return np.asarray(shared + core / np.asarray(tp) + log_sums + inner_saved_bytes(block, training, tp, split))


def _core_operand_bytes(training: TrainingSpec, inputs: float, output: float) -> float:
    """Bytes that the attention core keeps of its inputs and its output. In 8 bits these are copies, and a matmul in the
    compute format keeps the output besides."""
    element = training.precision.activation_bytes_per_element
    if not training.fp8_attention:
        return element * (inputs + output)
    return inputs + (element + (training.precision.linear is None)) * output


def norm_output_bytes(block: Block, training: TrainingSpec, hidden: int, sequence_split: Number) -> Array:
    """The part of `saved_bytes` per token that norms write and matmuls read."""
    split = sequence_split if training.software.regathers_inputs else 1
    return np.asarray(written_bytes(training) * _norm_outputs(block, training) * hidden / np.asarray(split))


def regathered_bytes(block: Block, training: TrainingSpec, hidden: int, sequence_split: Number) -> Array:
    """Bytes per token that a compiled layer holds beside `saved_bytes` while it runs again: the gathered inputs of its matmuls.

    A layer that is kept casts operands of weight gradients again, and gathers them for that. One that runs again in its backward pass
    is one graph with it, in which each gather stands once: for the matmul and for the gradient of its weight.
    """
    gathered = _recast(training) * training.precision.gathered_bytes_per_element * _norm_outputs(block, training)
    return np.where(np.asarray(sequence_split) > 1, gathered * hidden, 0.0)


def _norm_outputs(block: Block, training: TrainingSpec) -> int:
    """How many outputs of norms the gradients of weights read."""
    attention, ffn = keeps_attention_input(block, training.trainable), keeps_ffn_input(block, training.trainable)
    return int(attention or ffn if block.parallel and block.norm_count == 1 else attention + ffn)


def keeps_attention_input(block: Block, trainable: Trainable) -> bool:
    """Whether a gradient reads what attention is given."""
    return block.has_attention and trainable.keeps_input(*INPUT_MODULES)


def keeps_ffn_input(block: Block, trainable: Trainable) -> bool:
    """Whether a gradient reads what the feed-forward is given: of a dense one or of shared experts, or of a router. Routed experts read
    copies of it."""
    if not block.has_ffn:
        return False
    if isinstance(block.ffn, MixtureOfExperts) and not block.ffn.shared_width:
        return trainable.trains_layer_weights
    return trainable.keeps_input(*GATE_UP)


def routed_bytes(block: Block, training: TrainingSpec, hidden: int, tp: Number, experts: ExpertSplit) -> Array:
    """The part of `saved_bytes` per token that is as wide as the hidden state of routed tokens, and the router's choice."""
    assert isinstance(block.ffn, MixtureOfExperts), "only a layer of experts routes"
    outputs = training.precision.activation_bytes_per_element * training.software.keeps_expert_outputs
    if training.software.weighs_tokens_in_fp32:
        outputs = BYTES_PER_ELEMENT["fp32"]
    copies = experts.copies(1.0, block.ffn.computed_top_k, tp)
    inputs = _operand_bytes(training) * training.trainable.keeps_input(*GATE_UP)
    return np.asarray((inputs + outputs) * hidden * copies + 4 * block.ffn.choices)


def core_bytes(block: Block, training: TrainingSpec, tp: Number) -> Array:
    """Bytes per token that the attention core keeps beside its inputs and its output: an fp32 log-sum-exp for each query of
    a fused kernel, else the scores."""
    if training.attention == "unfused":
        return score_bytes(block, training, tp)
    if isinstance(block.attention, LinearAttention):
        return np.zeros(np.shape(tp))
    return np.asarray(4 * block.attention.heads / np.asarray(tp, dtype=float))


def inner_saved_bytes(block: Block, training: TrainingSpec, tp: Number, experts: ExpertSplit | None = None) -> Array:
    """The part of `saved_bytes` per token that is as wide as the feed-forward: inputs and output of its activation."""
    width = computed_width(block, experts or experts_as_the_rest(tp))
    return np.asarray(inner_column_bytes(block, training) * width / np.asarray(tp, dtype=float))


def fuses_activation(block: Block, stack: Stack) -> bool:
    """Whether one kernel computes the activation between the matmuls of the block's feed-forward or its experts."""
    return stack.fused_elementwise or (stack.fused_expert_activation and isinstance(block.ffn, MixtureOfExperts))


def inner_column_bytes(block: Block, training: TrainingSpec) -> int:
    """Bytes of one column of `inner_saved_bytes`."""
    inputs = (2 if fuses_activation(block, training.software) else 3) if block.ffn.gated else 1
    return training.precision.activation_bytes_per_element * inputs + activated_bytes(training)


def activated_bytes(training: TrainingSpec) -> int:
    """Bytes of one column that the activation writes, where the weight's gradient of the last matmul reads it."""
    return written_bytes(training) * training.trainable.keeps_input("down_proj")


def _recast(training: TrainingSpec) -> bool:
    """Whether the backward pass casts the operands of weight gradients again."""
    linear = training.precision.linear
    return training.software.recasts_operands and linear is not None and not OPERANDS[linear].plain_weight_gradient


def written_bytes(training: TrainingSpec) -> int:
    """Bytes of an element that a norm or an activation writes for a weight matmul, as far as it is kept."""
    return 0 if _recast(training) else _operand_bytes(training)


def _operand_bytes(training: TrainingSpec) -> int:
    """Bytes of an element that a weight matmul reads, in the format that is kept for the backward pass."""
    lowered = training.precision.linear and training.software.fused_operands
    return 1 if lowered else training.precision.activation_bytes_per_element


def score_bytes(block: Block, training: TrainingSpec, tp: Number) -> Array:
    """Bytes per token of the attention scores that unfused attention keeps, over the full length.

    These are the softmax and, with dropout, a mask of one byte and the output of the dropout. A fused kernel gives the
    softmax in the compute format. Eager PyTorch keeps it in fp32 with a cast beside it.
    """
    if isinstance(block.attention, LinearAttention):
        return np.zeros(np.shape(tp))
    stack, element = training.software, training.precision.activation_bytes_per_element
    softmax = element if stack.fused_elementwise or element == 4 else 4 + element
    dropout = 1 + element if stack.dropout else 0
    return np.asarray((softmax + dropout) * block.attention.heads * training.seq_len / np.asarray(tp, dtype=float))


def score_gradient_bytes(block: Block, training: TrainingSpec, tp: Number) -> Array:
    """Bytes per token of the scores' gradients. A fused softmax overwrites the
    gradient it gets; an eager one adds fp32."""
    if isinstance(block.attention, LinearAttention):
        return np.zeros(np.shape(tp))
    element = training.precision.activation_bytes_per_element
    gradient = element if training.software.fused_elementwise or element == 4 else 4 + element
    return np.asarray(gradient * block.attention.heads * training.seq_len / np.asarray(tp, dtype=float))
