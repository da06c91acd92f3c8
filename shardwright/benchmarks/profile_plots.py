"""The figures of a profile: roofline, efficiency by shape, attention by length, bandwidth by size."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from shardwright.costmodel.errors import SpecError
from shardwright.costmodel.profile import Profile, Series

from . import readable
from .plots import write_plot
from .profile_lines import known_device
from .profile_work import Family, family, memory_rate, rate, sizes, work
from .svg import Paint

_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8B5A00", "#7A1FA2")
_GREY = "#8C8C8C"
_MARKERS = "osD^vPX*<>hp"
_PARTS = ("forward", "input_gradient", "weight_gradient")
_TITLES: dict[Family, str] = {
    "operators": "Memory-bound operators by size",
    "optimizer": "Optimizer step by size",
    "host copies": "Copies between host and device by size",
    "disk": "Disk by size",
    "collectives": "Collectives by size: the busiest link",
}


@dataclass(frozen=True)
class Chart:
    """One figure: `name` of its file, `title` above it, and its size in inches."""

    name: str
    title: str
    paint: Paint
    width: float = 9.6
    height: float = 4.8


def profile_charts(profile: Profile) -> list[Chart]:
    """The figures that this profile has points for."""
    charts = [Chart("roofline", "Roofline", roofline(profile), height=5.4)] if _arithmetic(profile) else []
    formats = dict.fromkeys(series.format for series in _of(profile, "matmul"))
    for format in formats:
        series = [each for each in _of(profile, "matmul") if each.format == format and each.variant in _PARTS]
        if series:
            charts.append(Chart(f"matmul-{format}", f"Matmul by shape, {format}", matmul_rates(series), height=4.0))
    if attention := _of(profile, "attention"):
        charts.append(Chart("attention", "Attention by length", attention_rates(attention), height=4.4))
    for kind, title in _TITLES.items():
        if of_kind := _of(profile, kind):
            name = f"bandwidth-{kind.replace(' ', '-')}"
            charts.append(Chart(name, title, bandwidth(of_kind), height=max(4.2, 1.2 + 0.21 * len(_lines(of_kind)))))
    return charts


def write_profile_plots(folder: Path, profile: Profile) -> list[Path]:
    """Write every chart as a PNG into `folder`, which is made if it is missing.

    Raises:
        SpecError: the folder cannot be made or written to, or the profile has nothing to draw.
    """
    charts = profile_charts(profile)
    if not charts:
        raise SpecError("the profile has no series of points, so there is nothing to plot")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(f"{folder}: cannot be made ({error.strerror or error})") from None
    for chart in charts:
        write_plot(folder / f"{chart.name}.png", titled(chart), width=chart.width, height=chart.height)
    return [folder / f"{chart.name}.png" for chart in charts]


def titled(chart: Chart) -> Paint:
    """The chart with its title above, for where no page says it."""

    def paint(axes: Axes) -> None:
        figure = _figure(axes)
        chart.paint(axes)
        figure.suptitle(chart.title, x=0.01, ha="left", fontsize=11)

    return paint


def roofline(profile: Profile) -> Paint:
    """FLOP/s against FLOPs a byte of every matmul and attention; the measured memory bandwidth as a slope, the best rate as a
    roof, and the catalog's peaks dashed where the device is known."""
    by_label = _arithmetic(profile)
    slope = memory_rate(profile)
    device = known_device(profile.fingerprint)

    def paint(axes: Axes) -> None:
        xs = [x for points in by_label.values() for x, _ in points]
        best = max(y for points in by_label.values() for _, y in points)
        low, high = min(xs) / 1.6, max(xs) * 1.6
        for place, (label, points) in enumerate(by_label.items()):
            x, y = zip(*points, strict=True)
            axes.scatter(x, y, s=16, alpha=0.7, linewidths=0, label=label, **_mark(place))
        if slope:
            bend = best / slope
            axes.plot([low, min(bend, high)], [low * slope, min(bend, high) * slope], color=_GREY, linewidth=1.3)
            axes.annotate(
                f"memory {readable.amount(slope, 'B/s')}",
                (low, low * slope),
                xytext=(4, -2),
                textcoords="offset points",
                va="top",
                fontsize=8.5,
            )
            low_roof = min(bend, high)
        else:
            low_roof = low
        axes.plot([low_roof, high], [best, best], color=_GREY, linewidth=1.3)
        axes.annotate(
            f"best {readable.amount(best, 'FLOP/s')}",
            (high, best),
            xytext=(-2, 3),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=8.5,
        )
        if device:
            _data_sheet_roofs(axes, profile, device.peak_flops_per_s, high)
        _log_axes(axes, "FLOPs a byte of operands and results", "FLOP/s")
        axes.set_xlim(low, high)
        _legend_right(axes)

    return paint


def _data_sheet_roofs(axes: Axes, profile: Profile, peaks: "dict[str, float]", high: float) -> None:
    for format in dict.fromkeys(each.format for each in _of(profile, "matmul", "attention")):
        if format and (peak := peaks.get(format)):
            axes.axhline(peak, color=_GREY, linestyle="--", linewidth=0.9)
            axes.annotate(
                f"data sheet, {format}: {readable.amount(peak, 'FLOP/s')}",
                (high, peak),
                xytext=(-2, 3),
                textcoords="offset points",
                ha="right",
                va="bottom",
                fontsize=8.5,
            )


def _arithmetic(profile: Profile) -> dict[str, list[tuple[float, float]]]:
    """(FLOPs a byte, FLOP/s) of each point, by operation and format; the variants share a mark."""
    points: dict[str, list[tuple[float, float]]] = {}
    for series in _of(profile, "matmul", "attention"):
        for point in series.points:
            done = work(series, point)
            if done is not None and done.flops > 0:
                label = f"{series.operation} {series.format or ''}".strip()
                points.setdefault(label, []).append((done.intensity, done.flops / point.seconds))
    return points


def matmul_rates(series: Sequence[Series]) -> Paint:
    """FLOP/s against FLOPs, one panel for each part of a linear layer, coloured by the inner size."""
    ordered = sorted(series, key=lambda each: _PARTS.index(each.variant))
    inner = [sizes(each, point)["k"] for each in ordered for point in each.points]

    def paint(axes: Axes) -> None:
        panels = _panels(axes, len(ordered))
        # 1 where all have one inner size, which a logarithmic scale of colours cannot hold
        colours = LogNorm(min(inner), max(max(inner), 1.01 * min(inner)))
        for place, (panel, each) in enumerate(zip(panels, ordered, strict=True)):
            rated = [(point, value) for point in each.points if (value := rate(each, point)) is not None]
            drawn = panel.scatter(
                [value * point.seconds for point, value in rated],
                [value for _, value in rated],
                c=[sizes(each, point)["k"] for point, _ in rated],
                norm=colours,
                cmap="viridis",
                s=18,
                linewidths=0,
            )
            _log_axes(panel, "FLOPs", "FLOP/s" if place == 0 else "")
            panel.set_title(each.variant.replace("_", " "), fontsize=9.5)
        bar = _figure(axes).colorbar(drawn, ax=panels, label="inner size k", aspect=30)
        shown = _decimated(sorted(set(inner)))
        bar.ax.yaxis.set_major_locator(FixedLocator(shown))
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:,.0f}"))
        bar.ax.yaxis.set_minor_locator(NullLocator())

    return paint


def _decimated(values: Sequence[float]) -> list[float]:
    """Few enough for a scale: at least a factor of 1.9 apart."""
    kept: list[float] = []
    for value in values:
        if not kept or value >= 1.9 * kept[-1]:
            kept.append(value)
    return kept


def attention_rates(series: Sequence[Series]) -> Paint:
    """FLOP/s against length, a line for each head size, format and kind of heads; forward and backward in panels."""
    directions = [way for way in ("forward", "backward") if any(each.variant.startswith(way) for each in series)]

    def paint(axes: Axes) -> None:
        panels = _panels(axes, len(directions) or 1)
        labels = list(dict.fromkeys(label for each in series for label in _attention_lines(each)))
        for place, (panel, way) in enumerate(zip(panels, directions, strict=True)):
            for each in series:
                if each.variant.startswith(way):
                    for label, points in _attention_lines(each).items():
                        _line(panel, points, labels.index(label), label)
            _log_axes(panel, "length (tokens)", "FLOP/s" if place == 0 else "")
            panel.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:,.0f}"))
            panel.set_title(way, fontsize=9.5)
        handles = [Line2D([], [], label=label, markersize=4, **_mark(place)) for place, label in enumerate(labels)]
        panels[-1].legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8.5)

    return paint


def _attention_lines(series: Series) -> dict[str, list[tuple[float, float]]]:
    """Median rate by length, by everything else that tells points apart in words."""
    found: dict[str, dict[float, list[float]]] = {}
    for point in series.points:
        at, value = sizes(series, point), rate(series, point)
        if value is not None:
            grouped = "" if at["heads"] == at["kv_heads"] else f", {at['heads'] / at['kv_heads']:.0f} heads a KV head"
            kind = series.variant.partition("-")[2]
            label = f"{series.format}, head {at['head_size']:.0f}{grouped}{f', {kind}' if kind else ''}"
            found.setdefault(label, {}).setdefault(at["length"], []).append(value)
    return {label: [(x, float(np.median(ys))) for x, ys in sorted(by.items())] for label, by in found.items()}


def bandwidth(series: Sequence[Series]) -> Paint:
    """Bytes/s against bytes, a line for each series, and of collectives for each kind of group."""
    lines = _lines(series)

    def paint(axes: Axes) -> None:
        for place, (label, points) in enumerate(lines.items()):
            _line(axes, points, place, label)
        _log_axes(axes, "bytes moved", "B/s")
        _legend_right(axes)

    return paint


def _lines(series: Iterable[Series]) -> dict[str, list[tuple[float, float]]]:
    """Median rate by bytes, by series and group."""
    found: dict[str, dict[float, list[float]]] = {}
    for each in series:
        for point in each.points:
            done, value = work(each, point), rate(each, point)
            if done is not None and value is not None:
                found.setdefault(_label(each, sizes(each, point)), {}).setdefault(done.moved_bytes, []).append(value)
    return {label: [(x, float(np.median(ys))) for x, ys in sorted(by.items())] for label, by in found.items()}


def _label(series: Series, at: dict[str, float]) -> str:
    if "ranks_per_node" not in at:
        return series.key.replace("/", " ").replace("_", " ")
    group = (
        f"{at['ranks_per_node']:.0f} x {at['nodes']:.0f} nodes"
        if at["nodes"] > 1
        else f"{at['ranks_per_node']:.0f} ranks"
    )
    sharing = f", {at['sharing']:.0f} at once" if at["sharing"] > 1 else ""
    beside = f", {series.variant}" if series.variant else ""
    return f"{series.operation.replace('_', ' ')}: {group}{sharing}{beside}"


def _of(profile: Profile, *kinds: Family) -> list[Series]:
    return [each for each in profile.series if each.points and family(each.operation) in kinds]


def _mark(place: int) -> dict[str, str]:
    """A colour and a marker of its own for each of many."""
    return {
        "color": _PALETTE[place % len(_PALETTE)],
        "marker": _MARKERS[(place // len(_PALETTE) + place) % len(_MARKERS)],
    }


def _line(axes: Axes, points: Sequence[tuple[float, float]], place: int, label: str) -> None:
    x, y = zip(*points, strict=True)
    axes.plot(x, y, linewidth=1.0, markersize=3.6, label=label, **_mark(place))


def _log_axes(axes: Axes, x: str, y: str) -> None:
    """Plain numbers with prefixes: figures don't parse the mathematics of the usual powers."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        decades = math.log10(high / low)
        axis.set_major_locator(LogLocator(base=10, subs=(1.0,) if decades > 3 else (1.0, 2.0, 5.0), numticks=12))
        axis.set_major_formatter(FuncFormatter(lambda value, _: readable.amount(value)))
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(visible=True, color=_GREY, alpha=0.18, linewidth=0.6)


def _panels(axes: Axes, count: int) -> list[Axes]:
    """`count` panels side by side with one vertical scale, in place of `axes`."""
    figure = _figure(axes)
    axes.remove()
    panels = list(figure.subplots(1, count, sharey=True, squeeze=False)[0])
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
    return panels


def _figure(axes: Axes) -> Figure:
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure


def _legend_right(axes: Axes) -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8.5)
