"""The factors of an estimate's intervals: quantiles of measured over predicted seconds, on runs whose source was left out.

A source counts with the root of its rows, so that neither a large source nor a single row dominates.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LEVELS = (0.80, 0.95)


class Residual(NamedTuple):
    """One run: its source, whether its kind of run varies for reasons that no plan shows, and measured / predicted seconds."""

    source: str
    unsettled: bool
    factor: float


def interval_factors(rows: Sequence[Residual], level: float) -> tuple[float, float]:
    """Low and high factor of the interval of `level`: its weighted quantiles."""
    counts = Counter(row.source for row in rows)
    ordered = sorted(rows, key=lambda row: row.factor)
    weights = np.array([counts[row.source] ** -0.5 for row in ordered])
    middle = (np.cumsum(weights) - weights / 2) / weights.sum()
    low, high = np.interp([(1 - level) / 2, (1 + level) / 2], middle, [row.factor for row in ordered])
    return float(low), float(high)


def left_out_coverage(rows: Sequence[Residual], level: float) -> float:
    """Share of rows inside the interval of the rows of their kind from all other sources; without such rows they are outside."""
    inside = 0
    for source, unsettled in {(row.source, row.unsettled) for row in rows}:
        alike = [row for row in rows if row.unsettled == unsettled]
        if others := [row for row in alike if row.source != source]:
            low, high = interval_factors(others, level)
            inside += sum(low <= row.factor <= high for row in alike if row.source == source)
    return inside / len(rows)
