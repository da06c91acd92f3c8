"""Rates of a profile by shape, length and size: one chart for each direction."""

from collections.abc import Iterable, Sequence

import numpy as np

from shardwright.reports.charts import Axis, Curve, Lines
from shardwright.reports.charts import series as colour
from shardwright.specs import Series

from .work import rate, sizes, work

_WAYS = ("forward", "backward")
PARTS = ("forward", "input_gradient", "weight_gradient")
_MOST_SIZES = 8  # inner sizes that are told apart; more are joined by powers of two
Rates = dict[str, list[tuple[float, float]]]


def matmul_rates(series: Sequence[Series]) -> dict[str, Lines]:
    """FLOP/s against FLOPs by part of a linear layer, a mark for each inner size."""
    ordered = sorted(
        series, key=lambda each: PARTS.index(each.variant.removeprefix("grouped_").removeprefix("looped_"))
    )
    inner = sorted({sizes(each, point)["k"] for each in ordered for point in each.points})
    names = {size: _inner_name(size, few=len(inner) <= _MOST_SIZES) for size in inner}
    places = {name: place for place, name in enumerate(dict.fromkeys(names.values()))}
    charts = {}
    for each in ordered:
        found: Rates = {}
        for point in each.points:
            if (done := work(each, point)) is not None:
                name = names[sizes(each, point)["k"]]
                found.setdefault(name, []).append((done.flops, done.flops / point.seconds))
        curves = tuple(
            Curve(name, colour(place), tuple(found[name]), loose=True)
            for name, place in places.items()
            if name in found
        )
        charts[each.variant.replace("_", " ")] = _rates("FLOPs", "FLOP/s", curves)
    return charts


def _inner_name(size: float, *, few: bool) -> str:
    if few:
        return f"k {size:,.0f}"
    power = 2 ** int(np.log2(size))
    return f"k {power:,} to {2 * power - 1:,}"


def attention_rates(series: Sequence[Series]) -> dict[str, Lines]:
    """FLOP/s against length, a line for each head size and kind of heads; by direction."""
    lines = {way: _joined(map(_by_length, _towards(series, way))) for way in _WAYS}
    return _two_ways(lines, "length (tokens)", "FLOP/s")


def kernel_rates(series: Sequence[Series]) -> dict[str, Lines]:
    """FLOP/s of attention against length, a line for each kernel; by direction."""
    lines = {way: _joined(map(_by_kernel, _towards(series, way))) for way in _WAYS}
    return _two_ways(lines, "length (tokens)", "FLOP/s")


def operator_rates(series: Sequence[Series]) -> dict[str, Lines]:
    """Bytes/s against bytes of memory-bound operators; by direction."""
    lines = {way: _joined(map(_by_bytes, _towards(series, way))) for way in _WAYS}
    return _two_ways(lines, "bytes moved", "B/s")


def transfer_rates(series: Sequence[Series]) -> Lines:
    """Bytes/s against the size of a copy, a message or an update, a line for each series, and for each kind of group."""
    from_size = any("size_bytes" in each.axes for each in series)
    lines = _joined(map(_by_bytes, series))
    curves = tuple(Curve(label, colour(place), tuple(points)) for place, (label, points) in enumerate(lines.items()))
    return _rates("bytes" if from_size else "bytes moved", "B/s", curves)


def line_count(series: Sequence[Series]) -> int:
    """How many lines `transfer_rates` draws."""
    return len(_joined(map(_by_bytes, series)))


def _towards(series: Sequence[Series], way: str) -> list[Series]:
    return [each for each in series if each.variant.startswith(way)]


def _joined(parts: Iterable[Rates]) -> Rates:
    return {label: points for part in parts for label, points in part.items()}


def _two_ways(lines: dict[str, Rates], x: str, y: str) -> dict[str, Lines]:
    """One chart for each direction that has points; a label keeps its mark in both."""
    labels = list(dict.fromkeys(label for found in lines.values() for label in found))
    return {
        way: _rates(
            x, y, tuple(Curve(label, colour(labels.index(label)), tuple(points)) for label, points in found.items())
        )
        for way, found in lines.items()
        if found
    }


def _rates(x: str, y: str, curves: tuple[Curve, ...]) -> Lines:
    return Lines(x=Axis(name=x, logarithmic=True), y=Axis(name=y, logarithmic=True), curves=curves)


def _by_length(series: Series) -> Rates:
    """Median rate by length, for each head size and number of heads that share keys and values."""
    found: dict[str, dict[float, list[float]]] = {}
    for point in series.points:
        at, value = sizes(series, point), rate(series, point)
        if value is not None:
            grouped = "" if at["heads"] == at["kv_heads"] else f", {at['heads'] / at['kv_heads']:.0f} a KV head"
            label = f"heads of {at['head_size']:.0f}{grouped}"
            found.setdefault(label, {}).setdefault(at["length"], []).append(value)
    return _medians(found)


def _by_kernel(series: Series) -> Rates:
    """Median rate by length, over all heads."""
    found: dict[float, list[float]] = {}
    for point in series.points:
        value = rate(series, point)
        if value is not None:
            found.setdefault(sizes(series, point)["length"], []).append(value)
    return _medians({series.variant.partition("-")[2] or "the default": found})


def _by_bytes(series: Series) -> Rates:
    """Median rate by bytes: the size of a message or copy, otherwise the bytes moved."""
    found: dict[str, dict[float, list[float]]] = {}
    for point in series.points:
        at, done, value = sizes(series, point), work(series, point), rate(series, point)
        if done is not None and value is not None:
            size = at.get("size_bytes", done.moved_bytes)
            found.setdefault(_label(series, at), {}).setdefault(size, []).append(value)
    return _medians(found)


def _medians(found: dict[str, dict[float, list[float]]]) -> Rates:
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
