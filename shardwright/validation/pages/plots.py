"""The charts of a validation: predicted against measured, and the errors by source."""

import statistics
from collections import defaultdict

from shardwright.reports.charts import Axis, Curve, Lines, Strip, Strips, series
from shardwright.validation.scores import Validation
from shardwright.validation.table import short_source_name

_BAND = 1.25  # predicted over measured, and the other way round
_SECONDS = ("measured seconds of one step", "predicted seconds of one step")


def scatter(validation: Validation) -> Lines:
    """Predicted against measured step time on logarithmic axes, a mark for each framework, those with most rows first."""
    points: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    for row in validation.rows:
        if row.measured_seconds is not None and row.predicted_seconds is not None:
            points[row.framework].append((row.measured_seconds, row.predicted_seconds, row.id))
    ordered = sorted(points.items(), key=lambda item: -len(item[1]))
    seconds = [value for pairs in points.values() for one in pairs for value in one[:2]]
    low, high = 0.8 * min(seconds), 1.25 * max(seconds)
    x, y = _SECONDS
    return Lines(
        x=Axis(name=x, unit="s", logarithmic=True),
        y=Axis(name=y, unit="s", logarithmic=True),
        curves=(
            *(
                Curve(f"{framework} ({len(found)})", series(place), tuple(found), loose=True)
                for place, (framework, found) in enumerate(ordered)
            ),
            Curve("as measured", "measured", ((low, low), (high, high))),
            Curve(f"{_BAND - 1:.0%} more", "other", ((low, _BAND * low), (high, _BAND * high)), dashed=True),
            Curve("a fifth less", "other", ((low, low / _BAND), (high, high / _BAND)), dashed=True),
        ),
    )


def errors_by_source(validation: Validation) -> Strips:
    """Each row's error as a dot in the row of its source; a box from quartile to quartile with the median."""
    errors: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for row in validation.rows:
        if row.relative_error is not None:
            errors[row.source].append((row.relative_error, row.id))
    ordered = sorted(errors.items(), key=lambda item: -len(item[1]))
    return Strips(
        x=Axis(name="error of the step time; above 0 predicted too slow", unit="share"),
        strips=tuple(
            Strip(
                f"{short_source_name(source)} ({len(found)})",
                tuple(sorted(found)),
                _quartiles([one for one, _ in found]),
            )
            for source, found in ordered
        ),
    )


def _quartiles(values: list[float]) -> tuple[float, float, float, float, float]:
    """Least, quartiles and greatest; of a single value five times that."""
    if len(values) == 1:
        return values[0], values[0], values[0], values[0], values[0]
    first, middle, third = statistics.quantiles(values, n=4, method="inclusive")
    return min(values), first, middle, third, max(values)
