"""The factors of an estimate's intervals, from the residuals of published rows: python -m shardwright.benchmarks.residuals.

A measured step is the predicted one times a factor. An interval of level p runs between the (1-p)/2 and (1+p)/2 quantiles
of that factor, every source having the same weight, so that one with many rows does not set it. Coverage is counted
on each source with the quantiles of the others.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .outcome import Outcome
from .row_source import source_name
from .table import read_table
from .validate import predict_rows

PUBLISHED = Path(__file__).parent / "published" / "training.csv"
LEVELS = (0.80, 0.95)


class Residual(NamedTuple):
    """One row: who measured it, and measured / predicted step time."""

    source: str
    factor: float


def residuals(outcomes: Sequence[Outcome]) -> list[Residual]:
    """The rows that have a predicted time."""
    return [
        Residual(source_name(outcome.row.source), 1 / (1 + outcome.result.relative_error))
        for outcome in outcomes
        if outcome.result.relative_error is not None
    ]


def interval_factors(rows: Sequence[Residual], level: float) -> tuple[float, float]:
    """Low and high factor of the interval of `level`: quantiles over sources of equal weight."""
    counts = {source: sum(row.source == source for row in rows) for source in {row.source for row in rows}}
    ordered = sorted(rows, key=lambda row: row.factor)
    weights = np.array([1 / (len(counts) * counts[row.source]) for row in ordered])
    middle = np.cumsum(weights) - weights / 2
    factors = np.array([row.factor for row in ordered])
    low, high = np.interp([(1 - level) / 2, (1 + level) / 2], middle, factors)
    return float(low), float(high)


def left_out_coverage(rows: Sequence[Residual], level: float) -> float:
    """Share of rows inside the interval that the other sources' rows give, every row counting the same."""
    inside = 0
    for source in {row.source for row in rows}:
        low, high = interval_factors([row for row in rows if row.source != source], level)
        inside += sum(low <= row.factor <= high for row in rows if row.source == source)
    return inside / len(rows)


def main() -> None:
    """Print the factors that constants.py holds, and how many left-out rows they would have covered."""
    from shardwright.costmodel import estimate_plan
    from shardwright.costmodel.catalog import standard_node

    outcomes = list(predict_rows(read_table(PUBLISHED), estimate=estimate_plan, standard_node=standard_node))
    rows = residuals(outcomes)
    print(f"{len(rows)} rows of {len({row.source for row in rows})} sources")
    for level in LEVELS:
        low, high = interval_factors(rows, level)
        print(
            f"{level:.0%} interval: {low:.2f} to {high:.2f} times the prediction; "
            f"covers {left_out_coverage(rows, level):.0%} of rows whose source is left out"
        )


if __name__ == "__main__":
    main()
