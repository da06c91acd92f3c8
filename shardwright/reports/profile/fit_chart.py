"""How well the curves of a profile fit its points, and points left out of the fit."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from shardwright.base import units as readable
from shardwright.costmodel.op_times import fitted, left_out_errors
from shardwright.reports.figures import GREY, Paint, grid, mark, panels
from shardwright.specs import Series

Residuals = list[tuple[float, float]]

_MOST_MARKS = 16
_TITLES = ("fitted", "left out of the fit")


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


def fit_labels(series: Sequence[Series]) -> list[str]:
    """The labels with marks of their own: series, or operations if there are too many series to distinguish."""
    return list(dict.fromkeys(_label(each, few=len(series) <= _MOST_MARKS) for each in series))


def fit_chart(series: Sequence[Series]) -> Paint:
    """Errors in percent against measured seconds, in two panels: fitted points, and left-out points.

    Points far outside the others are drawn at the edge, and counted.
    """
    few, labels = len(series) <= _MOST_MARKS, fit_labels(series)

    def paint(axes: Axes) -> None:
        side_by_side = panels(axes, 2)
        residuals = [{each.key: found(each) for each in series} for found in (fit_residuals, left_out_residuals)]
        reach = _reach([abs(error) for part in residuals for pairs in part.values() for _, error in pairs])
        for panel, title, part in zip(side_by_side, _TITLES, residuals, strict=True):
            panel.axhline(0, color=GREY, linewidth=1)
            for each in series:
                if pairs := part[each.key]:
                    seconds, errors = zip(*pairs, strict=True)
                    shown = [100 * min(max(error, -reach), reach) for error in errors]
                    marks = mark(labels.index(_label(each, few=few)))
                    panel.scatter(seconds, shown, s=13, alpha=0.7, linewidths=0, **marks)  # type: ignore[arg-type] # any property
            _style(panel, f"{title}{_median_words(part, reach)}")
        side_by_side[0].set_ylabel("predicted / measured - 1, percent")
        side_by_side[0].set_ylim(-105 * reach, 105 * reach)
        handles = [_dot(label, place) for place, label in enumerate(labels)]
        side_by_side[-1].legend(
            handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8.5, frameon=False
        )

    return paint


def _label(series: Series, *, few: bool) -> str:
    words = series.key if few else series.operation
    return words.replace("_", " ").replace("/", " ").replace("-", ", ")


def _reach(errors: Sequence[float]) -> float:
    """The limit that holds 97% of the errors, at least one percent."""
    return max(0.01, float(np.quantile(errors, 0.97))) if errors else 0.01


def _dot(label: str, place: int) -> Line2D:
    return Line2D([], [], linestyle="", label=label, markersize=4, **mark(place))  # type: ignore[arg-type] # any property


def _median_words(found: dict[str, Residuals], reach: float) -> str:
    errors = [abs(error) for pairs in found.values() for _, error in pairs]
    if not errors:
        return ": too few points"
    beyond = sum(error > reach for error in errors)
    return f": median {readable.share(float(np.median(errors)))}{f', {beyond} outside' if beyond else ''}"


def _style(panel: Axes, title: str) -> None:
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter(
        FuncFormatter(lambda seconds, _: readable.seconds(seconds).replace(".00", "").replace(".0", ""))
    )
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.set_xlabel("measured seconds")
    panel.set_title(title, fontsize=9.5)
    grid(panel)
