"""Selective recompute of one layer: the work it repeats, and the bytes it keeps or frees.

A stack repeats by its own policy (Stack.selective). A job may name modules instead, as Megatron-Core does
(transformer_config.py, `recompute_modules`). "layernorm", "mla_up_proj" and "moe_act" discard what the next matmul reads,
and make it again. "core_attn", "mlp", "moe" and "shared_experts" are checkpoints: they keep their input and run again as a
whole. A module that a layer does not have changes nothing.

In transformers' layers (Stack.transformers_layers) each module is a checkpoint: a norm keeps its input, and an activation of
experts its own; the core of a fused kernel is not repeated. What they free is counted tensor by tensor (saved/layer.py).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from shardwright.base import Array, Number
from shardwright.specs import FEED_FORWARD_MODULES, RecomputeModule, Stack, TrainingSpec
from shardwright.specs.model import Block, FeedForward, LatentAttention, MixtureOfExperts, ModelSpec

from . import operators
from .operators import ExpertSplit, Matmul, attention_matmuls, ffn_matmuls
from .saved import layer_code
from .traffic import Moving, dispatched_elements, forward_traffic

_NORMS, _ROTARIES = ("layernorm", "rmsnorm", "eager_rmsnorm"), ("rotary", "eager_rotary")
_ACTIVATIONS = ("activation", "gated_activation", "eager_gated_activation")


class Selection(NamedTuple):
    """`repeated`: matmuls that the backward pass computes again. `kept_bytes`:
    bytes per token beside the layer's input. `core`: the attention core is computed again, too."""

    repeated: list[Matmul]
    kept_bytes: Array
    core: bool = False


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

    "elementwise" keeps the output of every matmul and of the attention kernel, "all-but-weight-matmuls" of every weight matmul. "alternate-matmuls" keeps that of the
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
    if stack.selective == "all-but-weight-matmuls":
        return Selection([], np.asarray(element * sum(kept, np.zeros_like(core))), core=True)
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


class RepeatedModules(NamedTuple):
    """Work of one layer and microbatch that the backward pass repeats.

    `core`: the attention core, too. `exchange`: the exchange between expert-parallel ranks, too. `freed_bytes`: bytes
    per token that autograd no longer keeps.
    """

    matmuls: tuple[Matmul, ...] = ()
    traffic: tuple[Moving, ...] = ()
    core: bool = False
    exchange: bool = False
    freed_bytes: Array | float = 0.0


def repeated_modules(
    block: Block,
    model: ModelSpec,
    training: TrainingSpec,
    tokens: Number,
    tp: Number,
    sequence_split: Number,
    experts: ExpertSplit,
) -> RepeatedModules:
    """Return what `training.recompute_modules` repeats and frees in a layer of `block`; arguments as in `saved_bytes`."""
    layer = _Layer(block, model, training, tokens, tp, sequence_split, experts)
    parts = [layer.repeated(module) for module in modules_apart(training)]
    return RepeatedModules(
        matmuls=tuple(matmul for part in parts for matmul in part.matmuls),
        traffic=tuple(moving for part in parts for moving in part.traffic),
        core=any(part.core for part in parts),
        exchange=any(part.exchange for part in parts),
        freed_bytes=sum(part.freed_bytes for part in parts),
    )


def not_run_again(block: Block, model: ModelSpec, tiles: int, matmuls: Sequence[Matmul]) -> list[Matmul]:
    """Return what a full recompute that stops early leaves out of the `matmuls` of a layer: the last, whose result no gradient reads.

    A feed-forward in `tiles` keeps their inputs alone, as each is a checkpoint of its own: the rerun stops before the last tile.
    The router's gradient reads what routed experts return, so that only shared ones after them end a layer with a sum.
    """
    if isinstance(block.ffn, MixtureOfExperts):
        ends = block.ffn.shared_width and layer_code(model.family, block).routing.shared_last
        return list(matmuls[-1:]) if ends else []
    if tiles == 1:
        return list(matmuls[-1:])
    inside = [matmul for matmul in matmuls if not set(FEED_FORWARD_MODULES).isdisjoint(matmul.modules)]
    return [replace(matmul, m=np.asarray(matmul.m, dtype=float) / tiles) for matmul in inside]


def modules_apart(training: TrainingSpec) -> list[RecomputeModule]:
    """Return the modules to repeat without those that something else repeats already: "moe" its parts, tiles the feed-forward."""
    modules = training.recompute_modules
    repeated = {"moe_act", "shared_experts"} if "moe" in modules else set()
    if training.mlp_tiles > 1:
        repeated.add("mlp")
    return [module for module in modules if module not in repeated]


def of_first_half(training: TrainingSpec) -> TrainingSpec:
    """Return a training as the first half of a layer with a shortcut sees it: what its experts share is a feed-forward ("mlp")."""
    modules = [module for module in training.recompute_modules if module != "shared_experts"]
    again = (*modules, "shared_experts") if "mlp" in modules else tuple(modules)
    return training.model_copy(update={"recompute_modules": again})


class _Layer(NamedTuple):
    block: Block
    model: ModelSpec
    training: TrainingSpec
    tokens: Number
    tp: Number
    sequence_split: Number
    experts: ExpertSplit

    def repeated(self, module: RecomputeModule) -> RepeatedModules:
        block, training, ffn = self.block, self.training, self.block.ffn
        match module:
            case "core_attn":
                again = training.attention == "unfused" or not training.software.transformers_layers
                return RepeatedModules(core=again, freed_bytes=operators.core_bytes(block, training, self.tp))
            case "layernorm":
                freed = operators.norm_output_bytes(block, training, self.model.hidden_size, self.sequence_split)
                return RepeatedModules(traffic=self._traffic(_NORMS), freed_bytes=freed)
            case "mla_up_proj" if isinstance(block.attention, LatentAttention):
                return self._latent_projections(block.attention)
            case "mlp" if isinstance(ffn, FeedForward):
                freed = operators.inner_saved_bytes(block, training, self.tp)
                return RepeatedModules(self._early(self._ffn_matmuls), self._traffic(_ACTIVATIONS), freed_bytes=freed)
            case "moe" if isinstance(ffn, MixtureOfExperts):
                kept = operators.routed_bytes(block, training, self.model.hidden_size, self.tp, self.experts)
                matmuls = self._ffn_matmuls
                left_out = (
                    not_run_again(block, self.model, 1, matmuls) if training.software.stops_recompute_early else []
                )
                return RepeatedModules(
                    matmuls[: len(matmuls) - len(left_out)],
                    (*self._traffic(_ACTIVATIONS), self._dispatch()),
                    exchange=True,
                    freed_bytes=kept + operators.inner_saved_bytes(block, training, self.tp, self.experts),
                )
            case "moe_act" if isinstance(ffn, MixtureOfExperts):
                width = operators.computed_width(block, self.experts) - ffn.shared_width
                freed = operators.activated_bytes(training) * width / np.asarray(self.tp, dtype=float)
                return RepeatedModules(traffic=self._activation(width), freed_bytes=freed)
            case "shared_experts" if isinstance(ffn, MixtureOfExperts) and ffn.shared_width:
                column = operators.inner_column_bytes(block, training)
                return RepeatedModules(
                    self._early(tuple(operators.of_shared_experts(self._ffn_matmuls))),
                    self._activation(ffn.shared_width),
                    freed_bytes=column * ffn.shared_width / np.asarray(self.tp, dtype=float),
                )
        return RepeatedModules()

    def _early(self, matmuls: tuple[Matmul, ...]) -> tuple[Matmul, ...]:
        """Leave out the last matmul, whose output no gradient reads, where a checkpoint stops before it."""
        return matmuls[:-1] if self.training.software.stops_recompute_early else matmuls

    @property
    def _ffn_matmuls(self) -> tuple[Matmul, ...]:
        joined = self.training.software.joined_projections
        return tuple(ffn_matmuls(self.block, self.model.hidden_size, self.tokens, self.tp, self.experts, joined=joined))

    def _latent_projections(self, attention: LatentAttention) -> RepeatedModules:
        """The projections of the latents up to all heads, and the rotary embedding."""
        up = [
            matmul
            for matmul in attention_matmuls(self.block, self.model.hidden_size, self.tokens, self.tp)
            if matmul.after_norm
        ]
        heads = attention.heads * (2 * attention.head_size + attention.value_head_size)
        freed = self.training.precision.activation_bytes_per_element * heads / np.asarray(self.tp, dtype=float)
        return RepeatedModules(tuple(up), self._traffic(_ROTARIES), freed_bytes=freed)

    def _traffic(self, kinds: tuple[str, ...]) -> tuple[Moving, ...]:
        moving = forward_traffic(self.block, self.model, self.training, self.experts)
        return tuple(each for each in moving if each.operator in kinds)

    def _dispatch(self) -> Moving:
        """Tokens are sorted by expert and put back."""
        return Moving("copy", inner=dispatched_elements(self.block, self.model.hidden_size, self.experts))

    def _activation(self, width: Number) -> tuple[Moving, ...]:
        return tuple(replace(each, inner=width) for each in self._traffic(_ACTIVATIONS))
