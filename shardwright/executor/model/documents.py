"""Several documents in one sequence: positions that start again at each of them, and attention that stays inside.

A sequence of documents is told by the place of each token in its document, (batch, sequence) from 0. transformers makes the masks of
each kind of layer from that (masking_utils.py, packed_sequence_compatibility_function).
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import masking_utils

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile

from .check_division import tiny_model
from .hugging_face import Skeleton, lacks_fused_attention

_LARGEST_ERROR = 1e-4
_CUTS = ((3, 5), (6, 2))
"""Lengths of two documents in each of two sequences."""

_in_hand: list[Tensor] = []


def numbered_documents(places: Tensor) -> Tensor:
    """Return the number of each token's document within its sequence, (batch, sequence), of tokens' places in documents."""
    return (places == 0).cumsum(-1)


@contextlib.contextmanager
def documents(places: Tensor, *, divided: bool) -> Iterator[None]:
    """Let masks made inside the block keep documents apart. `divided`: ranks hold parts of each sequence, and attention that
    knows of them takes `documents_in_hand`; otherwise transformers masks the whole sequence."""
    numbers = numbered_documents(places)
    original = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda position_ids: None if divided else numbers
    _in_hand.append(places)
    try:
        yield
    finally:
        _in_hand.pop()
        masking_utils.find_packed_sequence_indices = original


def documents_in_hand() -> Tensor | None:
    """Return the places of the tokens of whole sequences inside a block of `documents`, None outside."""
    return _in_hand[-1] if _in_hand else None


def check_documents(plan_file: PlanFile, skeleton: Skeleton) -> None:
    """Check that the model keeps packed documents apart. It is tried on a tiny model of the same class.

    Raises:
        SpecError: packed documents do not give what each of them gives alone.
    """
    if plan_file.training.documents is None:
        return
    kind, fix = type(skeleton.model).__name__, "plan with --packing padded, or without --lengths"
    model = tiny_model(skeleton, axis="packed documents", fix=fix)
    model.config._attn_implementation = "eager" if lacks_fused_attention(skeleton.config) else "sdpa"
    tokens = torch.arange(2 * sum(_CUTS[0])).view(2, -1)
    places = torch.stack([torch.cat([torch.arange(length) for length in row]) for row in _CUTS])
    try:
        with torch.no_grad():
            with documents(places, divided=False):
                packed = model(input_ids=tokens, position_ids=places, use_cache=False).logits
            alone = [
                torch.cat([model(input_ids=part[None], use_cache=False).logits[0] for part in row.split(lengths)])
                for row, lengths in zip(tokens, _CUTS, strict=True)
            ]
    except Exception as problem:  # whatever the code of one of hundreds of classes raises
        detail = " ".join(str(problem).split())[:120]
        raise SpecError(f"{skeleton.name}: {kind} does not run packed documents ({detail}); {fix}") from None
    expected = torch.stack(alone)
    error = float((packed - expected).norm() / expected.norm())
    if not error <= _LARGEST_ERROR:
        raise SpecError(
            f"{skeleton.name}: {kind} does not keep packed documents apart (its result is {error:.1%} off); {fix}"
        )
