"""The factors of an estimate's intervals: how far measured over predicted seconds of a new document may lie from 1.

Each run of a class is predicted by a fit without its document. Its logarithm of measured over predicted seconds is the
sum of what its document has in common and what the run has of its own. A new document's run is centred on the mean
over the known documents, with the variance between documents, that within them, and that of the mean. Few documents
say little of the first, so the factors are those of a t-distribution with one degree of freedom less than there are
documents (Higgins, Thompson and Spiegelhalter 2009, J. R. Statist. Soc. A 172, section 4, prediction in a new study).
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from shardwright.costmodel import LEVELS, SAFE, RunClass


class Residual(NamedTuple):
    """One run: its document, its class, and measured / predicted seconds, or bytes of its peak."""

    document: str
    run_class: RunClass
    factor: float


class Spread(NamedTuple):
    """Of logarithms: the mean over documents, and the standard deviation of a run of a new document around it."""

    mean: float
    deviation: float
    documents: int

    def factors(self, level: float) -> tuple[float, float]:
        """Low and high factor of the interval of `level`, which also holds 1: the prediction is never outside."""
        reach = float(student.ppf((1 + level) / 2, self.documents - 1)) * self.deviation
        return min(1.0, math.exp(self.mean - reach)), max(1.0, math.exp(self.mean + reach))


def spread(rows: Sequence[Residual]) -> Spread:
    """The spread of a class by its documents, which count alike.

    Raises:
        ValueError: the rows are of fewer than two documents, which say nothing of a third.
    """
    groups: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        groups[row.document].append(math.log(row.factor))
    if len(groups) < 2:
        raise ValueError("an interval needs rows of two documents")
    means = np.array([np.mean(group) for group in groups.values()])
    sizes = np.array([len(group) for group in groups.values()])
    inside = sum(((np.array(group) - np.mean(group)) ** 2).sum() for group in groups.values())
    within = inside / max(1, int(sizes.sum()) - len(groups))
    among = float(means.var(ddof=1))
    between = max(0.0, among - within * float((1 / sizes).mean()))
    return Spread(float(means.mean()), math.sqrt(between + within + among / len(groups)), len(groups))


def left_out_coverage(rows: Sequence[Residual], level: float) -> float:
    """Share of rows inside the interval of their class from all other documents; without two of these they are outside."""
    inside = 0
    for document, run_class in {(row.document, row.run_class) for row in rows}:
        alike = [row for row in rows if row.run_class == run_class]
        others = [row for row in alike if row.document != document]
        if len({row.document for row in others}) > 1:
            low, high = spread(others).factors(level)
            inside += sum(low <= row.factor <= high for row in alike if row.document == document)
    return inside / len(rows)


def intervals_toml(rows: Sequence[Residual], memory: Sequence[Residual]) -> str:
    """The text of intervals.toml: step times by class, and the peaks of memory."""
    lines = [
        "# Measured over predicted step time in a new document, by class of run (intervals.py). Written by",
        "# python -m shardwright.calibration.fit --write.",
    ]
    for run_class in sorted({row.run_class for row in rows}):
        found = spread([row for row in rows if row.run_class == run_class])
        at = {level: [float(f"{factor:.3g}") for factor in found.factors(level)] for level in LEVELS}
        lines += [
            "",
            f'["{run_class}"]',
            f"at_80 = {at[0.80]}",
            f"at_95 = {at[0.95]}",
            f"documents = {found.documents}",
        ]
    peaks = spread(memory)
    safe = peaks.mean + float(student.ppf(SAFE, peaks.documents - 1)) * peaks.deviation
    lines += [
        "",
        "[memory]",
        f"mean = {peaks.mean:.3g}",
        f"deviation = {peaks.deviation:.3g}",
        f"documents = {peaks.documents}",
        f"safe_reserve = {1 - math.exp(-safe):.3g}",
    ]
    return "\n".join(lines) + "\n"
