"""The figures of a validation: predicted against measured, and the errors by source."""

import statistics
import textwrap
from collections import defaultdict
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from shardwright.base import SpecError
from shardwright.reports.figures import Paint, write_plot
from shardwright.validation.scores import Validation
from shardwright.validation.table import short_source_name

_PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442")
_REST = "#8C8C8C"
_REST_MARKERS = "s^vDPX*"
_LABEL = 68  # characters of a source's name in one line


def scatter(validation: Validation) -> Paint:
    """Predicted against measured step time on logarithmic axes; the frameworks with most rows have colours."""
    points: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in validation.rows:
        if row.measured_seconds is not None and row.predicted_seconds is not None:
            points[row.framework].append((row.measured_seconds, row.predicted_seconds))
    ordered = sorted(points.items(), key=lambda item: -len(item[1]))

    def paint(axes: Axes) -> None:
        for place, (framework, pairs) in enumerate(ordered):
            colour = _PALETTE[place] if place < len(_PALETTE) else _REST
            marker = "o" if place < len(_PALETTE) else _REST_MARKERS[place % len(_REST_MARKERS)]
            measured, predicted = zip(*pairs, strict=True)
            axes.scatter(
                measured,
                predicted,
                s=16,
                color=colour,
                marker=marker,
                alpha=0.75,
                linewidths=0,
                label=f"{framework} ({len(pairs)})",
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
    for axis in (axes.xaxis, axes.yaxis):  # plain numbers, because math text is not parsed
        axis.set_major_formatter(FuncFormatter(lambda second, _: f"{second:g}"))
        axis.set_minor_formatter(NullFormatter())


def errors_by_source(validation: Validation) -> Paint:
    """Each row's error as a dot in the line of its source; a box from quarter to quarter, the median as a bar."""
    errors: dict[str, list[float]] = defaultdict(list)
    for row in validation.rows:
        if row.relative_error is not None:
            errors[row.source].append(100 * row.relative_error)
    ordered = sorted(errors.items(), key=lambda item: -len(item[1]))

    def paint(axes: Axes) -> None:
        for place, (_, values) in enumerate(ordered):
            # spread over the line's height by rank, so that equal errors do not hide each other
            heights = [place + 0.5 * ((7 * index) % 11 - 5) / 11 for index in range(len(values))]
            if len(values) > 3:
                first, _, third = statistics.quantiles(values, n=4)
                axes.barh(place, third - first, left=first, height=0.72, color=_REST, alpha=0.3)
            axes.scatter(sorted(values), heights, s=12, color="#0072B2", alpha=0.6, linewidths=0)
            median = statistics.median(values)
            axes.plot([median, median], [place - 0.36, place + 0.36], color="#D55E00", linewidth=2)
        axes.axvline(0, color=_REST, linewidth=1)
        labels = [_label(source, len(values)) for source, values in ordered]
        axes.set_yticks(range(len(ordered)), labels, fontsize=8, linespacing=1.05)
        axes.set_ylim(max(len(ordered), 1) - 0.5, -0.5)
        axes.set_xlabel("error of the step time in percent; above 0 predicted too slow")

    return paint


def _label(source: str, rows: int) -> str:
    return textwrap.fill(f"{short_source_name(source)} ({rows})", _LABEL)


def write_validation_plots(folder: Path, validation: Validation) -> list[Path]:
    """Write predicted-against-measured.png and error-by-source.png into `folder`, which is made if it is missing.

    Raises:
        SpecError: the folder cannot be made or written to, or no row has a prediction to draw.
    """
    if not validation.summary.predicted:
        raise SpecError("no row has a predicted time, so there is nothing to plot; see why rows were skipped")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(f"{folder}: cannot be made ({error.strerror or error})") from None
    scattered, by_source = folder / "predicted-against-measured.png", folder / "error-by-source.png"
    write_plot(scattered, scatter(validation), width=8.0, height=7.5)
    height = errors_height(len(validation.summary.by_source))
    write_plot(by_source, errors_by_source(validation), width=11.0, height=height)
    return [scattered, by_source]


def errors_height(sources: int) -> float:
    """Inches that the lines of `errors_by_source` need."""
    return 1.0 + 0.34 * sources
