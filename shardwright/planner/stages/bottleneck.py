"""The classical partition problem: minimise the largest stage."""

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.planner.space import LayerRanges


def smallest_largest(values: Array, ranges: LayerRanges) -> tuple[float, tuple[int, ...]]:
    """Return the partition that minimises the largest of `values` (S, V), by dynamic programming from the last stage.

    Infinite values are never chosen where a finite partition exists; the result is infinite where none does.
    """
    layers = ranges.layer_count
    best = np.where(np.arange(layers + 1) == layers, 0.0, np.inf)
    choices: list[IntArray] = []
    for stage in values[::-1]:
        cost = np.where(ranges.kind_of >= 0, stage[ranges.kind_of], np.inf)
        whole = np.maximum(cost, best[None, :])
        choices.insert(0, whole.argmin(axis=1))
        best = whole.min(axis=1)
    ends = [0]
    for choice in choices:
        ends.append(int(choice[ends[-1]]))
    return float(best[0]), tuple(np.diff(ends).tolist())
