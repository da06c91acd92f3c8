"""Tokens of one expert that travel to it as their mean (Nie et al. 2024, LSH-MoE, arXiv 2411.08446, section 3.2).

Tokens are hashed by six random projections, each to the vertex of a cross-polytope that is nearest (equation 3). The tokens of one rank for one
expert are put in the order of their hashes, in which those with the longest common prefix lie together (Bawa et al. 2005, LSH Forest),
and cut into groups of an equal number. The paper groups what hashes alike, so that its data say how much travels; here the plan says it.
The expert computes the mean of each group, and a token gets that result and what the token differs from the mean by (equation 5).
"""

from functools import cached_property

import torch
from torch import Tensor

from shardwright.costmodel import HASH_COORDINATES, HASHES

_SEED = 2411_08446
_CODES = 2 * HASH_COORDINATES
BUCKETS = _CODES**HASHES


def buckets(hidden: Tensor) -> Tensor:
    """Return the hash of each token (tokens,), below `BUCKETS`: the codes of all projections as the digits of one number. `hidden`: (tokens,
    width). All ranks project alike, and gradients do not pass."""
    generator = torch.Generator().manual_seed(_SEED)
    projection = torch.randn(hidden.shape[1], HASHES * HASH_COORDINATES, generator=generator)
    projected = hidden.detach() @ projection.to(hidden.device, hidden.dtype)
    by_hash = projected.view(-1, HASHES, HASH_COORDINATES)
    largest = by_hash.abs().argmax(-1)
    negative = by_hash.gather(-1, largest[..., None])[..., 0] < 0
    place = torch.tensor([_CODES**digit for digit in reversed(range(HASHES))], device=hidden.device)
    return ((2 * largest + negative) * place).sum(-1)


class Centroids:
    """The groups of tokens that lie expert by expert. `sent`: (ranks, experts of each) tokens for each expert. `per_centroid`: tokens of a group,
    of which the last of an expert may have fewer."""

    def __init__(self, sent: Tensor, per_centroid: int) -> None:
        self._sent, self._per = sent, per_centroid
        self.sent = (sent + per_centroid - 1) // per_centroid
        """(ranks, experts of each) groups for each expert."""

    @cached_property
    def of_token(self) -> Tensor:
        """(tokens,): the group of each."""
        tokens, groups = self._sent.flatten(), self.sent.flatten()
        first, first_group = tokens.cumsum(0) - tokens, groups.cumsum(0) - groups
        place = torch.arange(int(tokens.sum()), device=tokens.device) - first.repeat_interleave(tokens)
        return first_group.repeat_interleave(tokens) + place // self._per

    @cached_property
    def sizes(self) -> Tensor:
        """(groups,): tokens of each."""
        return torch.bincount(self.of_token, minlength=int(self.sent.sum()))
