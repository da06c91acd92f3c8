"""How well the curves of a profile fit its points, and points left out of the fit."""

from collections.abc import Sequence

import numpy as np

from shardwright.base import units as readable
from shardwright.costmodel.op_times import fitted, left_out_errors
from shardwright.reports.charts import Axis, Curve, Lines
from shardwright.reports.charts import series as colour
from shardwright.specs import Series

Residuals = list[tuple[float, float]]

_MOST_MARKS = 16


def fit_residuals(series: Series) -> Residuals:
    """(measured seconds, fitted / measured - 1) of each point; empty where no curve is known."""
    found = fitted(series)
    if found is None:
        return []
    columns = found.form.sizes(*np.array([point.at for point in series.points], dtype=float).T)
    measured = np.array([point.seconds for point in series.points])
    errors = found.seconds(*columns) / measured - 1
    return list(zip(measured.tolist(), errors.tolist(), strict=True))


def left_out_residuals(series: Series) -> Residuals:
    """The same for predictions by a fit without the point; empty with too few points."""
    errors = left_out_errors(series)
    if errors is None:
        return []
    return [(point.seconds, float(error)) for point, error in zip(series.points, errors, strict=True)]


def fit_charts(series: Sequence[Series]) -> dict[str, Lines]:
    """Errors against measured seconds, of fitted points and of left-out points, by a title with their median.

    Each series has a mark, or each operation if there are too many series to tell apart. Points far outside the others are drawn at
    the edge and say where they are.
    """
    parts = {
        "fitted": {each.key: fit_residuals(each) for each in series},
        "left out of the fit": {each.key: left_out_residuals(each) for each in series},
    }
    reach = _reach([abs(error) for part in parts.values() for pairs in part.values() for _, error in pairs])
    few = len(series) <= _MOST_MARKS
    labels = list(dict.fromkeys(_label(each, few=few) for each in series))
    charts = {}
    for title, part in parts.items():
        curves = []
        for place, label in enumerate(labels):
            pairs = [pair for each in series if _label(each, few=few) == label for pair in part[each.key]]
            if pairs:
                points = tuple(_within(seconds, error, reach) for seconds, error in pairs)
                curves.append(Curve(label, colour(place), points, loose=True))
        if curves:
            charts[f"{title}{_median_words(part, reach)}"] = Lines(
                x=Axis(name="measured", unit="s", logarithmic=True),
                y=Axis(name="predicted / measured - 1", unit="share", from_data=True),
                curves=tuple(curves),
            )
    return charts


def _within(seconds: float, error: float, reach: float) -> tuple[float, float, str]:
    if abs(error) <= reach:
        return seconds, error, ""
    return seconds, min(max(error, -reach), reach), f"outside: {readable.signed_share(error)}"


def _label(series: Series, *, few: bool) -> str:
    words = series.key if few else series.operation
    return words.replace("_", " ").replace("/", " ").replace("-", ", ")


def _reach(errors: Sequence[float]) -> float:
    """The limit that holds 97% of the errors, at least one percent."""
    return max(0.01, float(np.quantile(errors, 0.97))) if errors else 0.01


def _median_words(found: dict[str, Residuals], reach: float) -> str:
    errors = [abs(error) for pairs in found.values() for _, error in pairs]
    beyond = sum(error > reach for error in errors)
    return f": median {readable.share(float(np.median(errors)))}{f', {beyond} outside' if beyond else ''}"
