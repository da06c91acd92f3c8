"""The cheapest choice of one candidate for each phase, where going from one candidate to the next costs something too."""

from collections.abc import Sequence
from typing import NamedTuple

from shardwright.base import FloatArray


class Shortest(NamedTuple):
    """`chosen`: the index of each phase's candidate. `seconds`: of all phases and of the changes between them."""

    chosen: tuple[int, ...]
    seconds: float


def shortest(phases: Sequence[FloatArray], changes: Sequence[FloatArray]) -> Shortest:
    """Return the cheapest way through the phases, a shortest path through layers of candidates (Bellman 1957, dynamic programming).

    best[p, j] = phases[p][j] + min_i (best[p - 1, i] + changes[p - 1][i, j])

    Args:
        phases: of each phase, (candidates,) seconds. There is at least one phase, and each has a candidate.
        changes: between neighbouring phases, (candidates, candidates of the next) seconds; infinite where it is not possible.
    """
    best, before = phases[0], []
    for own, change in zip(phases[1:], changes, strict=True):
        ways = best[:, None] + change
        before.append(ways.argmin(axis=0))
        best = ways.min(axis=0) + own
    chosen = [int(best.argmin())]
    for came_from in reversed(before):
        chosen.append(int(came_from[chosen[-1]]))
    return Shortest(tuple(reversed(chosen)), float(best.min()))
