"""Rates of a profile by shape, length and size."""

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.lines import Line2D

from shardwright.reports.figures import Paint, figure_of, legend_right, line, logarithmic, mark, panels, plain_ticks
from shardwright.specs import Series

from .work import rate, sizes, work

_WAYS = ("forward", "backward")
PARTS = ("forward", "input_gradient", "weight_gradient")
Lines = dict[str, list[tuple[float, float]]]


def matmul_rates(series: Sequence[Series]) -> Paint:
    """FLOP/s against FLOPs, one panel for each part of a linear layer, coloured by the inner size."""
    ordered = sorted(
        series, key=lambda each: PARTS.index(each.variant.removeprefix("grouped_").removeprefix("looped_"))
    )
    inner = [sizes(each, point)["k"] for each in ordered for point in each.points]

    def paint(axes: Axes) -> None:
        side_by_side = panels(axes, len(ordered))
        # a logarithmic scale of colours can't hold a single inner size
        colours = LogNorm(min(inner), max(max(inner), 1.01 * min(inner)))
        for panel, each in zip(side_by_side, ordered, strict=True):
            done = [(found.flops, point) for point in each.points if (found := work(each, point)) is not None]
            drawn = panel.scatter(
                [flops for flops, _ in done],
                [flops / point.seconds for flops, point in done],
                c=[sizes(each, point)["k"] for _, point in done],
                norm=colours,
                cmap="viridis",
                s=18,
                linewidths=0,
            )
            panel.set_title(each.variant.replace("_", " "), fontsize=9.5)
        _style(side_by_side, "FLOPs", "FLOP/s")
        bar = figure_of(side_by_side[0]).colorbar(drawn, ax=side_by_side, label="inner size k", aspect=30)
        plain_ticks(bar.ax.yaxis, inner)

    return paint


def attention_rates(series: Sequence[Series]) -> Paint:
    """FLOP/s against length, a line for each head size and kind of heads; forward and backward in panels."""
    lines = {way: _joined(map(_by_length, _towards(series, way))) for way in _WAYS}
    return _two_ways(lines, "length (tokens)", "FLOP/s")


def kernel_rates(series: Sequence[Series]) -> Paint:
    """FLOP/s of attention against length, a line for each kernel; forward and backward in panels."""
    lines = {way: _joined(map(_by_kernel, _towards(series, way))) for way in _WAYS}
    return _two_ways(lines, "length (tokens)", "FLOP/s")


def operator_rates(series: Sequence[Series]) -> Paint:
    """Bytes/s against bytes of memory-bound operators; forward and backward in panels."""
    lines = {way: _joined(map(_by_bytes, _towards(series, way))) for way in _WAYS}
    return _two_ways(lines, "bytes moved", "B/s")


def transfer_rates(series: Sequence[Series]) -> Paint:
    """Bytes/s against the size of a copy, a message or an update, a line for each series, and for each kind of group."""
    lines = _joined(map(_by_bytes, series))
    from_size = any("size_bytes" in each.axes for each in series)

    def paint(axes: Axes) -> None:
        for place, (label, points) in enumerate(lines.items()):
            line(axes, points, place, label)
        logarithmic(axes, "bytes" if from_size else "bytes moved", "B/s")
        legend_right(axes)

    return paint


def line_count(series: Sequence[Series]) -> int:
    """How many lines `transfer_rates` draws."""
    return len(_joined(map(_by_bytes, series)))


def _towards(series: Sequence[Series], way: str) -> list[Series]:
    return [each for each in series if each.variant.startswith(way)]


def _joined(parts: Iterable[Lines]) -> Lines:
    return {label: points for part in parts for label, points in part.items()}


def _two_ways(lines: dict[str, Lines], x: str, y: str) -> Paint:
    """One panel for each direction; a label keeps its mark in both."""
    shown = {way: found for way, found in lines.items() if found}
    labels = list(dict.fromkeys(label for found in shown.values() for label in found))

    def paint(axes: Axes) -> None:
        if not shown:
            axes.set_axis_off()
            axes.text(0.5, 0.5, "no point has the sizes that a rate needs", ha="center", transform=axes.transAxes)
            return
        side_by_side = panels(axes, len(shown))
        for panel, (way, found) in zip(side_by_side, shown.items(), strict=True):
            for label, points in found.items():
                line(panel, points, labels.index(label), label)
            panel.set_title(way, fontsize=9.5)
        _style(side_by_side, x, y)
        handles = [Line2D([], [], label=label, markersize=4, **mark(place)) for place, label in enumerate(labels)]  # type: ignore[arg-type] # any property
        side_by_side[-1].legend(
            handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8.5, frameon=False
        )

    return paint


def _style(side_by_side: Sequence[Axes], x: str, y: str) -> None:
    """Style the panels after drawing; they share one vertical scale, which must hold all points."""
    for place, panel in enumerate(side_by_side):
        logarithmic(panel, x, y if place == 0 else "")


def _by_length(series: Series) -> Lines:
    """Median rate by length, for each head size and number of heads that share keys and values."""
    found: dict[str, dict[float, list[float]]] = {}
    for point in series.points:
        at, value = sizes(series, point), rate(series, point)
        if value is not None:
            grouped = "" if at["heads"] == at["kv_heads"] else f", {at['heads'] / at['kv_heads']:.0f} a KV head"
            label = f"heads of {at['head_size']:.0f}{grouped}"
            found.setdefault(label, {}).setdefault(at["length"], []).append(value)
    return _medians(found)


def _by_kernel(series: Series) -> Lines:
    """Median rate by length, over all heads."""
    found: dict[float, list[float]] = {}
    for point in series.points:
        value = rate(series, point)
        if value is not None:
            found.setdefault(sizes(series, point)["length"], []).append(value)
    return _medians({series.variant.partition("-")[2] or "the default": found})


def _by_bytes(series: Series) -> Lines:
    """Median rate by bytes: the size of a message or copy, otherwise the bytes moved."""
    found: dict[str, dict[float, list[float]]] = {}
    for point in series.points:
        at, done, value = sizes(series, point), work(series, point), rate(series, point)
        if done is not None and value is not None:
            size = at.get("size_bytes", done.moved_bytes)
            found.setdefault(_label(series, at), {}).setdefault(size, []).append(value)
    return _medians(found)


def _medians(found: dict[str, dict[float, list[float]]]) -> Lines:
    return {label: [(x, float(np.median(ys))) for x, ys in sorted(by.items())] for label, by in found.items()}


def _label(series: Series, at: dict[str, float]) -> str:
    if "rows" in series.axes and series.operation != "cast":  # its panel says the direction, its chart the format
        return series.operation.replace("_", " ")
    if "ranks_per_node" not in at:
        return series.key.replace("/", " ").replace("_", " ").replace("-", ", ")
    nodes = f" x {at['nodes']:.0f} nodes" if at["nodes"] > 1 else ""
    sharing = f", {at['sharing']:.0f} at once" if at["sharing"] > 1 else ""
    beside = f", {series.variant}" if series.variant else ""
    return f"{series.operation.replace('_', ' ')}: {at['ranks_per_node']:.0f} ranks{nodes}{sharing}{beside}"
