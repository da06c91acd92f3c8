"""Logarithmic axes, panels and marks that the figures of a profile share."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from shardwright.base import units as readable

GREY = "#8C8C8C"
_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8B5A00", "#7A1FA2")
_MARKERS = "osD^vPX*<>hp"
_SPARSE = 2  # decades, beyond which powers of ten are marks enough
_LEAST_DECADES = 0.5


def mark(place: int) -> dict[str, str]:
    """A distinct colour and marker for each place."""
    return {
        "color": _PALETTE[place % len(_PALETTE)],
        "marker": _MARKERS[(place // len(_PALETTE) + place) % len(_MARKERS)],
    }


def line(axes: Axes, points: Sequence[tuple[float, float]], place: int, label: str) -> None:
    """Points (x, y) joined, in the marks of that place."""
    x, y = zip(*points, strict=True)
    axes.plot(x, y, linewidth=1.0, markersize=3.6, label=label, **mark(place))  # type: ignore[arg-type] # plot takes any property


def logarithmic(axes: Axes, x: str, y: str) -> None:
    """Both axes logarithmic, in plain numbers with prefixes: figures don't parse the mathematics of the usual powers."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(_widened(*axes.get_xlim()))
    axes.set_ylim(_widened(*axes.get_ylim()))
    _ticks(axes.xaxis, *axes.get_xlim())
    _ticks(axes.yaxis, *axes.get_ylim())
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    grid(axes)


def grid(axes: Axes) -> None:
    axes.grid(visible=True, color=GREY, alpha=0.18, linewidth=0.6)


def _widened(low: float, high: float) -> tuple[float, float]:
    """The range widened to half a decade, so that noise does not look like a trend."""
    lacking = _LEAST_DECADES - math.log10(high / low)
    stretch = 10 ** (max(lacking, 0.0) / 2)
    return low / stretch, high * stretch


def _ticks(axis: Axis, low: float, high: float) -> None:
    subs = (1.0,) if math.log10(high / low) > _SPARSE else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(base=10, subs=subs, numticks=10))
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axis.set_minor_formatter(NullFormatter())


def plain_ticks(axis: Axis, values: Sequence[float]) -> None:
    """Ticks at these values only, without those too close to the one before."""
    kept: list[float] = []
    for value in sorted(set(values)):
        if not kept or value >= 1.9 * kept[-1]:
            kept.append(value)
    axis.set_major_locator(FixedLocator(kept))
    axis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:,.0f}"))
    axis.set_minor_locator(NullLocator())


def short(value: float) -> str:
    """`20 G`, `1.5 k`, `0.02`: as few digits as the number has."""
    if value < 1000:
        return f"{value:g}"
    number, _, prefix = readable.amount(value).partition(" ")
    return f"{float(number.replace(',', '')):g} {prefix}"


def panels(axes: Axes, count: int) -> list[Axes]:
    """`count` panels side by side with one vertical scale, in place of `axes`."""
    figure = figure_of(axes)
    axes.remove()
    found = list(figure.subplots(1, count, sharey=True, squeeze=False)[0])
    for panel in found:
        panel.spines[["top", "right"]].set_visible(False)
    return found


def figure_of(axes: Axes) -> Figure:
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)  # axes that were removed have none
    return figure


def legend_right(axes: Axes) -> None:
    """Legend beside the axes, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(handles, labels, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8.5, frameon=False)
