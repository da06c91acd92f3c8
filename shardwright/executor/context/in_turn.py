"""Layers that take a sequence in pieces, one after the other, on one rank: only one piece's activations are alive.

A piece's queries see its own keys and values and those of the pieces before it. Each piece is a checkpoint. The backward pass takes the pieces
from last to first, so that the gradients of keys and values are complete when it comes to the piece that made them (Luo et al. 2025, StreamBP,
arXiv 2506.03077, section 3).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface

from shardwright.executor.model import set_attention

from .attention import causal_lower_right

_NAME = "shardwright_in_turn"
_HIDDEN_TOKENS, _TOKENS = 1, 2
"""Dimensions of tokens: of hidden states, (batch, tokens, hidden), and of keys and values, (batch, heads, tokens, head size)."""


@dataclass
class _Piece:
    """The piece that a layer is at: keys and values of those before it, one after the other, and its own."""

    before: tuple[Tensor, ...]
    own: list[Tensor] = field(default_factory=list)


_in_hand: list[_Piece] = []


def attend_in_turn(model: PreTrainedModel) -> None:
    """Let attention of `model` see the pieces before the one that its layer is at."""
    AttentionInterface.register(_NAME, _attention)
    AttentionMaskInterface.register(_NAME, AttentionMaskInterface()["sdpa"])  # type: ignore[no-untyped-call]  # transformers
    set_attention(model, _NAME)


def take_in_turn(layer: nn.Module, pieces: int) -> None:
    """Let a layer, whose attention does so too (`attend_in_turn`), take its tokens (batch, tokens, hidden) in so many pieces.

    A layer that runs again as a whole keeps its input alone, and makes keys and values again before its backward pass.
    """
    own: Any = layer
    whole = own.forward

    def one(hidden: Tensor, given: tuple[Any, ...], options: Mapping[str, Any], *before: Tensor) -> tuple[Tensor, ...]:
        _in_hand.append(_Piece(before))
        try:
            output = whole(hidden, *given, **options)
            return _only(output), *_in_hand[-1].own
        finally:
            _in_hand.pop()

    def in_turn(hidden: Tensor, *given: Any, **options: Any) -> Any:
        tokens = hidden.shape[_HIDDEN_TOKENS]
        outputs: list[Tensor] = []
        seen: list[Tensor] = []
        for start, end in pairwise(round(tokens * piece / pieces) for piece in range(pieces + 1)):
            part = (
                tuple(_of_piece(each, tokens, start, end) for each in given),
                _of_piece(options, tokens, start, end),
            )
            output, *own_keys = checkpoint(
                one, hidden[:, start:end], *part, *seen, use_reentrant=False, preserve_rng_state=False
            )
            outputs.append(output)
            seen += own_keys
        return torch.cat(outputs, dim=_HIDDEN_TOKENS)

    def again_as_a_whole(hidden: Tensor, *given: Any, **options: Any) -> Any:
        return checkpoint(partial(in_turn, **options), hidden, *given, use_reentrant=False, preserve_rng_state=False)

    repeats, own.gradient_checkpointing = (
        getattr(layer, "gradient_checkpointing", False),
        False,
    )  # of transformers: inside each piece
    own.forward = again_as_a_whole if repeats else in_turn


def _only(output: Any) -> Tensor:
    """The hidden states that a layer returns, alone or in a tuple."""
    if isinstance(output, tuple):
        (output,) = output
    found: Tensor = output
    return found


def _of_piece(given: Any, tokens: int, start: int, end: int) -> Any:
    """Return the part of what a layer is given that belongs to tokens `start` to `end`: masks, positions and rotations of each token."""
    if isinstance(given, Mapping):
        return {name: _of_piece(each, tokens, start, end) for name, each in given.items()}
    if isinstance(given, tuple):
        return tuple(_of_piece(each, tokens, start, end) for each in given)
    if not isinstance(given, Tensor):
        return given
    if given.dim() == 4:  # which of the keys each query sees
        return given[..., start:end, :end]
    place = min(1, given.dim() - 1)
    return given.narrow(place, start, end - start) if given.shape[place] == tokens else given


def _attention(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_options: Any,
) -> tuple[Tensor, None]:
    """Return the output of the piece's tokens, (batch, tokens, heads, head size), as transformers' attention functions do."""
    piece = _in_hand[-1]
    piece.own = [key, value]
    keys, values = (torch.cat([*piece.before[turn::2], own], dim=_TOKENS) for turn, own in enumerate((key, value)))
    mask: Any = attention_mask
    if mask is None and piece.before:
        mask = causal_lower_right(query.shape[_TOKENS], keys.shape[_TOKENS])
    output = nn.functional.scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=True
    )  # keys and values are not copied for each query head
    return output.transpose(1, _TOKENS).contiguous(), None
