"""Sizes along the axes of a series: their order, and the size between two."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from shardwright.profiler.timing import Sizes


def spread_first(sizes: Iterable[Sizes]) -> list[Sizes]:
    """Return the same sizes without repetition, in an order whose first few span all of them.

    It begins in the middle. Each next size is the farthest, in ratios, from all before it (Gonzalez 1985, Theoretical
    Computer Science 38, farthest-point traversal).
    """
    unique = list(dict.fromkeys(sizes))
    if not unique:
        return []
    logs = np.log(np.array(unique, dtype=float))
    first = int(np.argmin(np.linalg.norm(logs - np.median(logs, axis=0), axis=1)))
    order, distance = [first], np.linalg.norm(logs - logs[first], axis=1)
    while len(order) < len(unique):
        farthest = int(np.argmax(distance))
        order.append(farthest)
        distance = np.minimum(distance, np.linalg.norm(logs - logs[farthest], axis=1))
    return [unique[index] for index in order]


def model_first(of_model: Iterable[Sizes], family: Iterable[Sizes]) -> list[Sizes]:
    """Return the sizes that the model uses, then the family; both spread, without duplicates."""
    return list(dict.fromkeys([*spread_first(of_model), *spread_first(family)]))


def size_between(one: Sizes, other: Sizes, multiples: Sequence[int]) -> Sizes | None:
    """Return the geometric mean along each axis, at a multiple of `multiples` there. Axes on which both agree stay
    unchanged.

    The result is None where no such size lies between: on every other axis the multiple next to the mean is one of the
    two.
    """
    middle = tuple(_axis_between(*ends) for ends in zip(one, other, multiples, strict=True))
    return None if middle in (tuple(one), tuple(other)) else middle


def _axis_between(one: float, other: float, multiple: int) -> float:
    if one == other:
        return one
    rounded = max(1, round(math.sqrt(one * other) / multiple)) * multiple
    return float(min(max(rounded, min(one, other)), max(one, other)))
