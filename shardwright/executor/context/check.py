"""What context parallelism cannot run, checked before anything starts."""

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile
from shardwright.executor.model import Skeleton, lacks_fused_attention, set_attention, tiny_model, unpacked_sequences

from .dealing import Dealing
from .in_turn import attend_in_turn, take_in_turn
from .linear import divide_linear_attention, is_recurrent
from .pieces import OneRank, SequencePieces, pieces_per_rank

_LARGEST_ERROR = 1e-4
_SEQ = 16
_TRIED = "shardwright_dealt_tokens"


def check_context(plan_file: PlanFile, skeleton: Skeleton) -> None:
    """Check that cp divides the sequence and the heads, and that the model computes the same on tokens out of order.

    The second is tried on a tiny model of the same class: it is given the tokens as they are dealt, with their positions.

    Raises:
        SpecError: one line that names what stands in the way, and what to plan instead.
    """
    plan, training, name = plan_file.plan, plan_file.training, plan_file.model_name
    if plan.mesh.cp == 1:
        return
    config = skeleton.config
    if lacks_fused_attention(config):
        raise SpecError(f"{name}: cp needs fused attention, which transformers has not for this class; plan with cp 1")
    if training.attention == "unfused":
        raise SpecError(f"{name}: cp {plan.mesh.cp} needs fused attention; plan with --attention flash, or cp 1")
    _check_sizes(plan_file, config)
    if plan.context_parallel in ("ring", "ulysses-ring") and (window := _window(config)) < training.seq_len:
        raise SpecError(
            f"{name}: attention in windows of {window} tokens does not run over a ring; plan with --context-parallel "
            "all-gather or ulysses"
        )
    _check_reach(plan_file, skeleton)
    _check_order(skeleton)


def _check_reach(plan_file: PlanFile, skeleton: Skeleton) -> None:
    """Check that a convolution of a recurrent module looks back no further than the piece before."""
    plan, seq_len = plan_file.plan, plan_file.training.seq_len
    dealing = Dealing.of_plan(plan, seq_len)
    reaches = [int(vars(module)["conv_kernel_size"]) - 1 for module in skeleton.model.modules() if is_recurrent(module)]
    shortest, length = max(reaches, default=0), dealing.tokens_per_rank // pieces_per_rank(dealing)
    if length < shortest:
        raise SpecError(
            f"{skeleton.name}: cp {plan.mesh.cp} leaves pieces of {length} tokens, and convolutions look {shortest} tokens back; plan with "
            "another cp or length"
        )


def _check_sizes(plan_file: PlanFile, config: PreTrainedConfig) -> None:
    plan, seq_len = plan_file.plan, plan_file.training.seq_len
    dealing = Dealing.of_plan(plan, seq_len)
    tp = plan.mesh.tp if plan.sequence_parallel else 1
    parts = plan.mesh.cp * tp * (2 if dealing.rings > 1 else 1)
    if seq_len % parts:
        raise SpecError(
            f"cp {plan.mesh.cp} ({plan.context_parallel}) cuts a sequence into {parts} parts, which {seq_len} tokens don't divide "
            "by; plan with another cp or length"
        )
    heads = config.num_attention_heads // plan.mesh.tp
    kv_heads = max(1, _kv_heads(config) // plan.mesh.tp)
    trading = dealing.trading
    if heads % trading or (kv_heads % trading and trading % kv_heads):
        raise SpecError(
            f"{trading} ranks ({plan.context_parallel}) cannot trade {heads} heads and {kv_heads} KV heads of "
            f"{plan_file.model_name}; plan with --context-parallel all-gather or ring"
        )


def _kv_heads(config: PreTrainedConfig) -> int:
    given: Any = config
    if getattr(given, "multi_query", False) and not getattr(given, "new_decoder_architecture", False):
        return 1  # Falcon-7B
    named = (getattr(given, name, None) for name in ("num_key_value_heads", "num_kv_heads", "num_attention_heads"))
    return next(int(count) for count in named if count)


def _window(config: PreTrainedConfig) -> float:
    """Return the tokens that a query sees at most, of all layers."""
    kinds = getattr(config, "layer_types", None) or ["sliding_attention", "chunked_attention"]
    given = [
        getattr(config, key, None)
        for key, kind in (("sliding_window", "sliding_attention"), ("attention_chunk_size", "chunked_attention"))
        if kind in kinds
    ]
    return min((value for value in given if value), default=float("inf"))  # 0 is none (Qwen2-MoE)


def _check_order(skeleton: Skeleton) -> None:
    """Refuse a class whose layers look at the order of their tokens: biases by distance, recurrences that are not known here."""
    name = type(skeleton.model).__name__
    model = tiny_model(skeleton, axis="cp")
    dealing = Dealing(_SEQ, rings=2, trading=1)
    order = torch.tensor([*dealing.of_group(1), *dealing.of_group(0)])
    pieces = SequencePieces(OneRank(), ((1, 2, 0, 3),))  # as quarters of the sequence come in that order
    tokens = torch.arange(2 * _SEQ).view(2, _SEQ)
    AttentionInterface.register(_TRIED, sdpa_attention_forward)
    AttentionMaskInterface.register(_TRIED, lambda **options: _mask_of(order, **options))
    try:
        with torch.no_grad(), unpacked_sequences():
            model.config._attn_implementation = "sdpa"
            expected = model(input_ids=tokens, use_cache=False).logits[:, order]
            set_attention(model, _TRIED)
            divide_linear_attention(model, pieces)
            found = model(input_ids=tokens[:, order], position_ids=order[None], use_cache=False).logits
    except Exception as problem:  # whatever the code of one of hundreds of classes raises
        detail = " ".join(str(problem).split())[:120]
        raise SpecError(f"{skeleton.name}: {name} does not run with cp ({detail}); plan with cp 1") from None
    error = float((found - expected).norm() / expected.norm())
    if not error <= _LARGEST_ERROR:
        raise SpecError(
            f"{skeleton.name}: {name} looks at the order of its tokens outside attention (its result is {error:.1%} off); plan with cp 1"
        )


def check_in_turn(plan_file: PlanFile, skeleton: Skeleton) -> None:
    """Check that the layers of the model compute the same on pieces of a sequence one after the other, on a tiny model of the same class.

    Raises:
        SpecError: one line that says that they do not.
    """
    pieces = plan_file.training.sequence_chunks
    if pieces == 1:
        return
    name, fix = type(skeleton.model).__name__, "plan without --sequence-chunks"
    if lacks_fused_attention(skeleton.config):
        raise SpecError(
            f"{skeleton.name}: pieces of a sequence need fused attention, which transformers has not for this class; {fix}"
        )
    model = tiny_model(skeleton, axis="sequence_chunks", fix=fix)
    tokens = torch.arange(2 * _SEQ).view(2, _SEQ)
    try:
        with torch.no_grad(), unpacked_sequences():
            model.config._attn_implementation = "sdpa"
            expected = model(input_ids=tokens, use_cache=False).logits
            attend_in_turn(model)
            for layer in model.get_submodule(skeleton.structure.layers).children():
                take_in_turn(layer, 3)
            found = model(input_ids=tokens, use_cache=False).logits
    except Exception as problem:  # whatever the code of one of hundreds of classes raises
        detail = " ".join(str(problem).split())[:120]
        raise SpecError(
            f"{skeleton.name}: layers of {name} do not run in pieces of the sequence ({detail}); {fix}"
        ) from None
    error = float((found - expected).norm() / expected.norm())
    if not error <= _LARGEST_ERROR:
        raise SpecError(
            f"{skeleton.name}: layers of {name} compute otherwise in pieces of the sequence ({error:.1%} off); {fix}"
        )


def _mask_of(order: Tensor, *, mask_function: Any, **_options: Any) -> Tensor:
    zero = torch.zeros(1, 1, 1, 1, dtype=torch.int64)
    mask: Tensor = mask_function(zero, zero, order[None, None, :, None], order[None, None, None, :])
    return mask
