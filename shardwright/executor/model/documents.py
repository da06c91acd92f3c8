"""Several documents in one sequence: positions that start again at each of them, and attention that stays inside.

A sequence of documents is told by the place of each token in its document, (batch, sequence) from 0, on the CPU. Fused attention runs
document by document, so that no score between two of them is computed. Of unfused attention transformers masks such scores
(masking_utils.py, packed_sequence_compatibility_function).
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel, masking_utils
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, causal_mask_function

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile

from .attention import set_attention
from .check_division import tiny_model
from .hugging_face import Skeleton, lacks_fused_attention

_NAME = "shardwright_documents"
_TOKENS, _OUTPUT_TOKENS = 2, 1
"""Dimensions of tokens: of queries, keys and values, (batch, heads, tokens, head size), and of transformers' output."""
_LARGEST_ERROR = 1e-4
_CUTS = ((3, 5), (6, 2))
"""Lengths of two documents in each of two sequences."""


@dataclass(frozen=True)
class _InHand:
    places: Tensor
    device: torch.device


_in_hand: list[_InHand] = []


def numbered_documents(places: Tensor) -> Tensor:
    """Return the number of each token's document within its sequence, (batch, sequence), of tokens' places in documents."""
    return (places == 0).cumsum(-1)


@contextlib.contextmanager
def documents(places: Tensor, device: torch.device, *, masked: bool) -> Iterator[None]:
    """Let the forward pass of a model inside the block keep documents apart.

    `masked`: transformers masks scores between them; otherwise attention that knows of documents takes `documents_in_hand`.
    """
    numbers = numbered_documents(places.to(device)) if masked else None
    original = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda position_ids: numbers
    _in_hand.append(_InHand(places, device))
    try:
        yield
    finally:
        _in_hand.pop()
        masking_utils.find_packed_sequence_indices = original


def documents_in_hand() -> Tensor | None:
    """Return the places of the tokens of whole sequences inside a block of `documents`, on its device; None outside."""
    return _in_hand[-1].places.to(_in_hand[-1].device) if _in_hand else None


def attends_alone(model: PreTrainedModel) -> bool:
    """Whether attention of `model` runs document by document."""
    return bool(model.config._attn_implementation == _NAME)


def attend_within_documents(model: PreTrainedModel) -> None:
    """Let fused attention of `model` run document by document. Its stages are then given places."""
    AttentionInterface.register(_NAME, _attention)
    AttentionMaskInterface.register(_NAME, _lengths)
    set_attention(model, _NAME)


@dataclass(frozen=True)
class _Lengths:
    """Of documents in each sequence. `seen`: keys that a query may see within the longest, (longest, longest); None: all before it."""

    of_sequences: tuple[tuple[int, ...], ...]
    seen: Tensor | None


def _lengths(
    *,
    mask_function: Callable[..., Any],
    local_size: int | None = None,
    device: torch.device | str = "cpu",
    **_options: Any,
) -> _Lengths:
    """Stand for a mask: transformers hands it to the layers' attention as it is."""
    of_sequences = [_cut(row) for row in _in_hand[-1].places]
    longest = max(max(lengths) for lengths in of_sequences)
    seen: Tensor | None = None
    if mask_function is not causal_mask_function and (local_size or 0) < longest:
        zero, order = torch.zeros(1, 1, dtype=torch.int64, device=device), torch.arange(longest, device=device)
        seen = mask_function(zero, zero, order[:, None], order[None, :])
    return _Lengths(tuple(of_sequences), seen)


def _cut(places: Tensor) -> tuple[int, ...]:
    """Return the lengths of the documents of one sequence."""
    starts = [*(places == 0).nonzero().flatten().tolist(), len(places)]
    return tuple(end - start for start, end in itertools.pairwise(starts))


@torch.compiler.disable  # type: ignore[untyped-decorator]  # a graph would be of the lengths of one microbatch
def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: _Lengths, **options: Any
) -> tuple[Tensor, None]:
    rows = []
    for row, lengths in enumerate(attention_mask.of_sequences):
        parts = (torch.split(tensor[row : row + 1], list(lengths), dim=_TOKENS) for tensor in (query, key, value))
        outputs = []
        for length, own, keys, values in zip(lengths, *parts, strict=True):
            seen = None if attention_mask.seen is None else attention_mask.seen[None, None, :length, :length]
            outputs.append(sdpa_attention_forward(module, own, keys, values, seen, **options)[0])
        rows.append(torch.cat(outputs, dim=_OUTPUT_TOKENS))
    return torch.cat(rows), None


def check_documents(plan_file: PlanFile, skeleton: Skeleton) -> None:
    """Check that the model keeps packed documents apart. It is tried on a tiny model of the same class.

    Raises:
        SpecError: packed documents do not give what each of them gives alone.
    """
    if plan_file.training.documents is None:
        return
    kind, fix = type(skeleton.model).__name__, "plan with --packing padded, or without --lengths"
    model = tiny_model(skeleton, axis="packed documents", fix=fix)
    masked = plan_file.training.attention == "unfused" or lacks_fused_attention(skeleton.config)
    tokens = torch.arange(2 * sum(_CUTS[0])).view(2, -1)
    places = torch.stack([torch.cat([torch.arange(length) for length in row]) for row in _CUTS])
    try:
        with torch.no_grad():
            alone = [
                torch.cat([model(input_ids=part[None], use_cache=False).logits[0] for part in row.split(lengths)])
                for row, lengths in zip(tokens, _CUTS, strict=True)
            ]
            if not masked:
                attend_within_documents(model)
            with documents(places, tokens.device, masked=masked):
                packed = model(input_ids=tokens, position_ids=places, use_cache=False).logits
    except Exception as problem:  # whatever the code of one of hundreds of classes raises
        detail = " ".join(str(problem).split())[:120]
        raise SpecError(f"{skeleton.name}: {kind} does not run packed documents ({detail}); {fix}") from None
    expected = torch.stack(alone)
    error = float((packed - expected).norm() / expected.norm())
    if not error <= _LARGEST_ERROR:
        raise SpecError(
            f"{skeleton.name}: {kind} does not keep packed documents apart (its result is {error:.1%} off); {fix}"
        )
