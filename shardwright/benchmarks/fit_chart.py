"""How well the curves of a profile fit its points, and points that a fit has not seen."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from shardwright.costmodel.fitted import fitted, left_out_errors
from shardwright.costmodel.profile import Series

from . import readable
from .log_axes import GREY, grid, mark, panels
from .svg import Paint

Residuals = list[tuple[float, float]]

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
    """The same of predictions by a fit that has not seen the point; empty with too few points."""
    errors = left_out_errors(series)
    if errors is None:
        return []
    return [(point.seconds, float(error)) for point, error in zip(series.points, errors, strict=True)]


def fit_chart(series: Sequence[Series]) -> Paint:
    """Errors in percent against measured seconds: of the points that were fitted, and of points left out, in two panels."""

    def paint(axes: Axes) -> None:
        side_by_side = panels(axes, 2)
        reach = 1.0
        for panel, title, residuals in zip(side_by_side, _TITLES, (fit_residuals, left_out_residuals), strict=True):
            found = {each.key: residuals(each) for each in series}
            panel.axhline(0, color=GREY, linewidth=1)
            for place, pairs in enumerate(found.values()):
                if pairs:
                    x, y = zip(*pairs, strict=True)
                    reach = max(reach, *(110 * abs(error) for error in y))
                    panel.scatter(x, [100 * error for error in y], s=13, alpha=0.7, linewidths=0, **mark(place))  # type: ignore[arg-type] # any property
            _style(panel, f"{title}{_median_words(found)}")
        side_by_side[0].set_ylabel("predicted / measured - 1, percent")
        side_by_side[0].set_ylim(-reach, reach)
        handles = [_dot(each.key, place) for place, each in enumerate(series)]
        side_by_side[-1].legend(
            handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8.5, frameon=False
        )

    return paint


def _dot(key: str, place: int) -> Line2D:
    label = key.replace("_", " ").replace("/", " ")
    return Line2D([], [], linestyle="", label=label, markersize=4, **mark(place))  # type: ignore[arg-type] # any property


def _median_words(found: dict[str, Residuals]) -> str:
    errors = [abs(error) for pairs in found.values() for _, error in pairs]
    return f": median {readable.share(float(np.median(errors)))}" if errors else ": too few points"


def _style(panel: Axes, title: str) -> None:
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter(
        FuncFormatter(lambda seconds, _: readable.seconds(seconds).replace(".00", "").replace(".0", ""))
    )
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.set_xlabel("measured seconds")
    panel.set_title(title, fontsize=9.5)
    grid(panel)
