"""A figure of one measure against another over the jobs that were tried."""

from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from shardwright.reports.figures import GREY, line, logarithmic, write_plot

_BEST = "#D55E00"
_RIGHT = 0.7  # of the width of the axes
_LABEL_HEIGHT, _LETTER_WIDTH = 14.0, 6.0  # pixels at 100 dots an inch


@dataclass(frozen=True)
class Curve:
    """Points with their labels, on a logarithmic axis of x and one of y that is logarithmic unless `linear`.

    Attributes:
        title, x_label, y_label: texts.
        points: (x, y) in the units of the labels, all above 0.
        labels: a text beside each point, left out where it would hide another one.
        joined: indices of the points that a line joins, such as those that no other point beats; `joined_label` says which.
        best: the index of the point that is the answer, None for none; `best_label` says what it is.
        limit: a level of y that must not be passed, None for none; `limit_label` says what it is.
    """

    title: str
    x_label: str
    y_label: str
    points: tuple[tuple[float, float], ...]
    labels: tuple[str, ...]
    joined: tuple[int, ...]
    joined_label: str
    best: int | None = None
    best_label: str = ""
    limit: float | None = None
    limit_label: str = ""
    linear: bool = False


def write_curve(path: Path, curve: Curve) -> None:
    """Write the figure; the format follows the name's ending.

    Raises:
        SpecError: another ending than png, svg or pdf, or the folder is missing or not writable.
    """

    write_plot(path, lambda axes: _paint(axes, curve), width=8.0, height=5.0)


def _paint(axes: Axes, curve: Curve) -> None:
    _points(axes, curve)
    if curve.limit is not None:
        axes.axhline(curve.limit, color=GREY, linestyle="--", linewidth=1, label=curve.limit_label)
    logarithmic(axes, curve.x_label, curve.y_label)
    if curve.linear:
        axes.set_yscale("linear")
        axes.yaxis.set_major_locator(MaxNLocator(nbins=7))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        levels = [y for _, y in curve.points] + ([] if curve.limit is None else [curve.limit])
        low, high = min(levels), max(levels)
        room = 0.15 * (high - low) or 0.05 * high
        axes.set_ylim(low - room, high + room)
    axes.set_title(curve.title, fontsize=10, loc="left")
    axes.legend(loc="best", fontsize=8.5, frameon=False)
    beside = (5, -11) if max(curve.points)[1] > min(curve.points)[1] else (5, 5)  # away from the line
    for index in _labelled(axes, curve):
        to_left = _on_the_right(axes, curve.points[index])
        axes.annotate(
            curve.labels[index],
            curve.points[index],
            xytext=(-beside[0] if to_left else beside[0], beside[1]),
            textcoords="offset points",
            fontsize=8,
            ha="right" if to_left else "left",
        )


def _points(axes: Axes, curve: Curve) -> None:
    line(axes, sorted(curve.points[index] for index in curve.joined), 0, curve.joined_label)
    apart = [point for index, point in enumerate(curve.points) if index not in curve.joined]
    if apart:
        x, y = zip(*apart, strict=True)
        axes.scatter(x, y, color=GREY, s=18, label="others")
    if curve.best is not None:
        best_x, best_y = curve.points[curve.best]
        axes.scatter(
            [best_x], [best_y], s=90, facecolors="none", edgecolors=_BEST, linewidths=1.6, label=curve.best_label
        )


def _on_the_right(axes: Axes, point: tuple[float, float]) -> bool:
    """Whether a point lies so far right that a label behind it would leave the axes."""
    return bool(axes.transLimits.transform(axes.transScale.transform(point))[0] > _RIGHT)


def _labelled(axes: Axes, curve: Curve) -> list[int]:
    """The points whose labels have room: the answer's first, then in order those that overlap none before."""
    order = sorted(range(len(curve.points)), key=lambda index: index != curve.best)
    places = axes.transData.transform(curve.points)
    kept: list[int] = []
    for index in order:
        x, y = places[index]
        if all(
            abs(y - places[other][1]) > _LABEL_HEIGHT
            or abs(x - places[other][0]) > _LETTER_WIDTH * len(curve.labels[other if places[other][0] < x else index])
            for other in kept
        ):
            kept.append(index)
    return kept
