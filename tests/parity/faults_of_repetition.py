"""Deliberate faults of what runs again in the backward pass; as in `sabotage.py`, each breaks the process it runs in."""

from typing import Any

import torch
from torch import Tensor, nn

from shardwright.executor.recompute import repeated
from shardwright.executor.recompute.repeated import Repetition


def detach_repeated_modules() -> None:
    """A module that runs again hands no gradient to what it was given."""
    original: Any = repeated.checkpoint  # type: ignore[attr-defined]

    def detached(forward: Any, hidden: Tensor, *rest: Any, **options: Any) -> Any:
        return original(forward, hidden.detach(), *rest, **options)

    repeated.checkpoint = detached  # type: ignore[attr-defined, assignment]


def blank_last_tile() -> None:
    """The feed-forward gets zeros for the tokens of the last tile."""
    original = repeated._pieces

    def blanked(hidden: Tensor, tiles: int, sequence_parts: int) -> list[Tensor]:
        *others, last = original(hidden, tiles, sequence_parts)
        return [*others, torch.zeros_like(last)]

    repeated._pieces = blanked


def tile_without_regard_to_ranks() -> None:
    """Tiles are neighbouring tokens, although each rank gets its share of every tile."""
    original = Repetition.within

    def plain(self: Repetition, region: nn.Module, _parts: int) -> None:
        original(self, region, 1)

    Repetition.within = plain  # type: ignore[method-assign, assignment]
