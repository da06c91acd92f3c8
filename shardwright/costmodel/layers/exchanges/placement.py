"""How tokens spread over experts, and what that leaves to the busiest rank: where experts lie on their ranks, and where hot ones lie on all.

Assumption: the shares of experts follow a power law, p_i ~ i^-a, and where experts stay on their ranks the hottest lie together. Then the tokens of
the busiest rank over the mean, `TrainingSpec.expert_imbalance`, fix a.

Hecate (Qing et al. 2025, arXiv 2502.02581, algorithms 1 and 2) gives every rank the h hottest experts, so that their tokens stay where they are,
and the others to the ranks by their load, the least loaded first. The busiest rank then computes its part of the hot tokens, and of the rest
a mean or what the next expert gets, if that is more.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from shardwright.base import Array

_STEEPEST, _HALVINGS = 64.0, 60


class Placed(NamedTuple):
    """As multiples of an even spread: tokens that the busiest rank computes, and those of them that are sent to it."""

    computed: float
    sent: float


@lru_cache(maxsize=1024)
def placed(experts: int, ranks: int, imbalance: float, hot: int) -> Placed:
    """Return what the busiest of `ranks` gets where all of them have the `hot` hottest of so many `experts`."""
    shares = _shares(experts, ranks, imbalance)
    hot = min(hot, experts)
    if not hot:
        return Placed(imbalance, imbalance)
    stays = float(shares[:hot].sum())
    rest = max(1.0 - stays, ranks * float(shares[hot]) if hot < experts else 0.0)
    return Placed(min(imbalance, stays + rest), min(imbalance, rest))


def _shares(experts: int, ranks: int, imbalance: float) -> Array:
    """(experts,): the share of the tokens that each gets, the most first."""
    on_a_rank = max(1, experts // ranks)

    def busiest(exponent: float) -> float:
        return ranks * float(_power_law(experts, exponent)[:on_a_rank].sum())

    low, high = 0.0, _STEEPEST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if busiest(middle) < imbalance else (low, middle)
    return _power_law(experts, low)


def _power_law(experts: int, exponent: float) -> Array:
    shares = np.arange(1.0, experts + 1) ** -exponent
    return np.asarray(shares / shares.sum())
