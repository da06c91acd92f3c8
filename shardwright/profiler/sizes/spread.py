"""Sizes along the axes of a series: which come first, and what lies between two."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from shardwright.profiler.timing import Sizes


def spread_first(sizes: Iterable[Sizes]) -> list[Sizes]:
    """The same sizes without repetition, so ordered that the first few span all of them.

    Begins in the middle; each next one is the farthest, in ratios, from all before it (Gonzalez 1985, Theoretical Computer
    Science 38, farthest-point traversal).
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
    """What the model uses, then the family; both spread, none twice."""
    return list(dict.fromkeys([*spread_first(of_model), *spread_first(family)]))


def size_between(one: Sizes, other: Sizes, multiples: Sequence[int]) -> Sizes | None:
    """The geometric mean along each axis, at a multiple of `multiples` there; an axis on which both agree stays as it is.

    None where no such size lies between: on every axis that differs the multiple next to the mean is one of the two.
    """
    middle = tuple(_axis_between(*ends) for ends in zip(one, other, multiples, strict=True))
    return None if middle in (tuple(one), tuple(other)) else middle


def _axis_between(one: float, other: float, multiple: int) -> float:
    if one == other:
        return one
    rounded = max(1, round(math.sqrt(one * other) / multiple)) * multiple
    return float(min(max(rounded, min(one, other)), max(one, other)))
