"""Which rank updates which matrix, where a method needs matrices whole: in rounds, of at most one matrix for each rank."""

from collections.abc import Sequence
from functools import lru_cache


def deal(sizes: Sequence[int], ranks: int) -> list[tuple[int, int]]:
    """Return (round, rank) of each matrix.

    The largest come first. A round takes as many as there are ranks, and in it the largest goes to the rank that has least so far
    (Graham 1969, Bounds on multiprocessing timing anomalies, with the order of rounds kept).
    """
    order = sorted(range(len(sizes)), key=lambda index: (-sizes[index], index))
    loads, dealt = [0] * ranks, [(0, 0)] * len(sizes)
    for start in range(0, len(order), ranks):
        free = sorted(range(ranks), key=lambda rank: (loads[rank], rank))
        for rank, index in zip(free, order[start : start + ranks], strict=False):
            loads[rank] += sizes[index]
            dealt[index] = start // ranks, rank
    return dealt


@lru_cache(maxsize=4096)
def imbalance(sizes: tuple[int, ...], ranks: int) -> float:
    """Return the elements of the rank that has most of the matrices dealt, over the mean of all ranks; 1 where there are none."""
    if ranks == 1 or not sizes:
        return 1.0
    loads = [0] * ranks
    for size, (_, rank) in zip(sizes, deal(sizes, ranks), strict=True):
        loads[rank] += size
    return max(loads) * ranks / sum(sizes)
