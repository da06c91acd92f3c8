"""Modules that run again in the backward pass, each from its own input."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from shardwright.executor.model import recompute_core
from shardwright.specs import RecomputeModule, RecomputePolicy, TrainingSpec

from .parts import experts_of, is_feed_forward, is_mixture, norms, shared_experts

_SEQUENCE = 1


class Repetition(NamedTuple):
    """What one layer repeats beside its own policy. `modules`: named ones, without parts of each other. `core`: the attention
    core. `tiles`: pieces of the tokens in which a dense feed-forward runs, each of them again in the backward pass."""

    modules: frozenset[RecomputeModule] = frozenset()
    core: bool = False
    tiles: int = 1

    @classmethod
    def of(cls, training: TrainingSpec, policy: RecomputePolicy) -> "Repetition":
        """Return what a layer under `policy` repeats in a training."""
        if policy != "selective":
            return cls(tiles=training.mlp_tiles)
        named = frozenset(training.recompute_modules)
        return cls(named, core=not named or "core_attn" in named, tiles=training.mlp_tiles)

    def within(self, region: nn.Module, sequence_parts: int) -> None:
        """Repeat modules of a child of the layer, inside what ranks exchange around it.

        `sequence_parts`: ranks over which the region's output is scattered along the sequence.
        """
        if is_mixture(region):
            self._within_mixture(region)
        elif is_feed_forward(region):
            if self.tiles > 1:
                _tile(region, self.tiles, sequence_parts)
            elif "mlp" in self.modules:
                _repeat(region)

    def around(self, layer: nn.Module) -> None:
        """Repeat the norms of a whole layer, and its attention core."""
        if "layernorm" in self.modules:
            for norm in norms(layer):
                _repeat(norm)
        if self.core:
            recompute_core(layer)

    def _within_mixture(self, region: nn.Module) -> None:
        if "moe" in self.modules:
            _repeat(region)
            return
        if "shared_experts" in self.modules:
            for module in shared_experts(region):
                _repeat(module)
        if "moe_act" in self.modules:
            for experts in experts_of(region):
                own: Any = experts
                own._apply_gate = _again(own._apply_gate)


def _repeat(module: nn.Module) -> None:
    module.forward = _again(module.forward)


def _again(forward: Callable[..., Any]) -> Callable[..., Any]:
    def again(*given: Any, **options: Any) -> Any:
        return checkpoint(forward, *given, use_reentrant=False, preserve_rng_state=False, **options)

    return again


def _tile(module: nn.Module, tiles: int, sequence_parts: int) -> None:
    """Run a feed-forward in pieces of its tokens (batch, sequence, hidden), one after the other in both passes.

    Where the output is scattered over ranks along the sequence, a piece has tokens of each rank's part, so that each rank gets
    its own from every piece in order (Bekman et al. 2025, arXiv 2506.13996, tiled MLP, has each rank's tokens alone).
    """
    whole = module.forward
    forward = _again(lambda piece: whole(piece.contiguous()))  # what is kept is the piece, a view

    def tiled(hidden: Tensor) -> Tensor:
        return torch.cat([forward(piece) for piece in _pieces(hidden, tiles, sequence_parts)], dim=_SEQUENCE)

    module.forward = tiled


def _pieces(hidden: Tensor, tiles: int, sequence_parts: int) -> list[Tensor]:
    batch, tokens, width = hidden.shape
    by_rank = hidden.view(batch, sequence_parts, tokens // sequence_parts, width)
    pieces = by_rank.tensor_split(tiles, dim=_SEQUENCE + 1)
    return [piece.flatten(_SEQUENCE, _SEQUENCE + 1) for piece in pieces if piece.numel()]
