"""Figures as files, and those of a validation: predicted against measured, and the errors by source."""

import statistics
from collections import defaultdict
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from shardwright.costmodel.errors import SpecError

from .svg import Paint
from .validate import Validation

_PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442")
_REST = "#8C8C8C"
_SUFFIXES = (".png", ".svg", ".pdf")


def scatter(validation: Validation) -> Paint:
    """Predicted against measured step time, both on logarithmic axes, the sources with most rows in colours."""
    points: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in validation.rows:
        if row.measured_seconds is not None and row.predicted_seconds is not None:
            points[row.source].append((row.measured_seconds, row.predicted_seconds))
    ordered = sorted(points.items(), key=lambda item: -len(item[1]))

    def paint(axes: Axes) -> None:
        for place, (source, pairs) in enumerate(ordered):
            colour = _PALETTE[place] if place < len(_PALETTE) else _REST
            measured, predicted = zip(*pairs, strict=True)
            axes.scatter(
                measured, predicted, s=14, color=colour, alpha=0.75, linewidths=0, label=f"{source} ({len(pairs)})"
            )
        if ordered:
            _diagonal(axes, [second for pairs in points.values() for pair in pairs for second in pair])
            axes.legend(loc="upper left", fontsize=8)
        axes.set_xlabel("measured seconds of one step")
        axes.set_ylabel("predicted seconds of one step")

    return paint


def _diagonal(axes: Axes, seconds: list[float]) -> None:
    low, high = 0.8 * min(seconds), 1.25 * max(seconds)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.plot([low, high], [low, high], color=_REST, linewidth=1)
    axes.fill_between(
        [low, high],
        [0.8 * low, 0.8 * high],
        [1.25 * low, 1.25 * high],
        color=_REST,
        alpha=0.2,
        linewidth=0,
        label="within 25%",
    )
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    for axis in (axes.xaxis, axes.yaxis):  # plain numbers: figures don't parse the mathematics of the usual powers
        axis.set_major_formatter(FuncFormatter(lambda second, _: f"{second:g}"))
        axis.set_minor_formatter(NullFormatter())


def errors_by_source(validation: Validation) -> Paint:
    """Each row's error as a dot in the line of its source, the median as a bar."""
    errors: dict[str, list[float]] = defaultdict(list)
    for row in validation.rows:
        if row.relative_error is not None:
            errors[row.source].append(100 * row.relative_error)
    ordered = sorted(errors.items(), key=lambda item: -len(item[1]))

    def paint(axes: Axes) -> None:
        for place, (_, values) in enumerate(ordered):
            # spread over the line's height by rank, so that equal errors do not hide each other
            heights = [place + 0.5 * ((7 * index) % 11 - 5) / 11 for index in range(len(values))]
            axes.scatter(sorted(values), heights, s=12, color="#0072B2", alpha=0.6, linewidths=0)
            median = statistics.median(values)
            axes.plot([median, median], [place - 0.36, place + 0.36], color="#D55E00", linewidth=2)
        axes.axvline(0, color=_REST, linewidth=1)
        axes.set_yticks(range(len(ordered)), [f"{source} ({len(values)})" for source, values in ordered])
        axes.set_ylim(max(len(ordered), 1) - 0.5, -0.5)
        axes.set_xlabel("error of the predicted step time in percent (bar: median); right of zero predicted too slow")

    return paint


def write_plot(path: Path, paint: Paint, *, width: float = 8.0, height: float = 6.0) -> None:
    """Write one figure of `width` x `height` inches; the format follows the name's ending.

    Raises:
        SpecError: another ending than png, svg or pdf, or the folder is missing or not writable.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise SpecError(f"{path}: cannot tell the figure's format; end the name with {', '.join(_SUFFIXES)}")
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    try:
        with rc_context({"text.parse_math": False}):  # a name may hold dollar signs
            paint(axes)
            figure.savefig(path, dpi=150)
    except OSError as error:
        raise SpecError(f"{path}: cannot be written ({error.strerror or error})") from None
