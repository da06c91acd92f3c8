"""The lines of a profile as text, for tables, pages and JSON."""

from collections.abc import Iterable
from dataclasses import dataclass

from shardwright.base import units as readable
from shardwright.catalog import devices as catalog
from shardwright.specs import Device, Figure, LayerCheck, MachineFingerprint, Point, Profile, Series

from .work import Family, best_point, family, rate_unit, seconds_per_element, sizes

_SECONDS, _BYTES, _SHARES = ("s", "seconds"), ("B", "bytes"), ("share", "ratio", "1", "")


@dataclass(frozen=True)
class SeriesLine:
    """One series in short. Rates in `unit`; `of_data_sheet`: the best rate over the catalog's peak, None where the catalog
    has no such device or figure; `seconds_per_element`: of a cast, at its best rate; `interval`: median half width of the
    points' confidence intervals over their medians.
    """

    key: str
    family: Family
    points: int
    sizes: str
    unit: str
    best: float | None
    best_at: str
    of_data_sheet: float | None
    seconds_per_element: float | None
    interval: float | None
    form: str | None
    parameters: dict[str, float]
    residual_median: float | None
    residual_p90: float | None
    left_out_median: float | None

    @property
    def best_words(self) -> str:
        return "-" if self.best is None else readable.amount(self.best, self.unit)


def series_lines(profile: Profile) -> list[SeriesLine]:
    """Every series that has points, in the profile's order."""
    device = known_device(profile.fingerprint)
    return [_series_line(series, device) for series in profile.series if series.points]


def known_device(fingerprint: MachineFingerprint) -> Device | None:
    """The catalog's device of this profile; None for a CPU or a card that the catalog lacks."""
    name = catalog.device_measured(fingerprint)
    return catalog.device(name) if name else None


def _series_line(series: Series, device: Device | None) -> SeriesLine:
    best, curve = best_point(series), series.curve
    halves = sorted((point.high_seconds - point.low_seconds) / 2 / point.seconds for point in series.points)
    return SeriesLine(
        key=series.key,
        family=family(series.operation),
        points=len(series.points),
        sizes=_ranges(series),
        unit=rate_unit(series.operation),
        best=best[1] if best else None,
        best_at=at_words(series, best[0]) if best else "",
        of_data_sheet=_share_of_peak(series, best[1], device) if best and device else None,
        seconds_per_element=seconds_per_element(series, best[0]) if best else None,
        interval=halves[len(halves) // 2],
        form=curve.form if curve else None,
        parameters=dict(curve.parameters) if curve else {},
        residual_median=curve.residual_median if curve else None,
        residual_p90=curve.residual_p90 if curve else None,
        left_out_median=curve.left_out_median if curve else None,
    )


def _share_of_peak(series: Series, best: float, device: Device) -> float | None:
    """Share of the format's peak FLOP/s for arithmetic, or of the memory bandwidth for work in device memory."""
    kind = family(series.operation)
    if kind in ("matmul", "attention"):
        peak = device.peak_flops_per_s.get(series.format) if series.format else None
        return best / peak if peak else None
    in_device_memory = kind in ("operators", "casts") or (kind == "optimizer" and series.operation != "host_adamw")
    return best / device.memory_bytes_per_s if in_device_memory else None


def _ranges(series: Series) -> str:
    """`m 128..2,048, k 64`, each axis from its least to its largest size."""
    words = []
    for place, axis in enumerate(series.axes):
        low, high = min(p.at[place] for p in series.points), max(p.at[place] for p in series.points)
        shown = _size(axis, low) if low == high else f"{_size(axis, low)}..{_size(axis, high)}"
        words.append(f"{_axis(axis)} {shown}".strip())
    return ", ".join(words)


def at_words(series: Series, point: Point) -> str:
    """The point's sizes along the axes that vary: `2,048 x 1,024 x 512`, `length 512, head size 64`, `16.0 MiB`."""
    if series.axes[:3] == ("m", "k", "n"):
        groups = f", {point.at[3]:.0f} groups" if len(point.at) > 3 else ""
        return " x ".join(f"{size:,.0f}" for size in point.at[:3]) + groups
    if series.axes[:2] == ("rows", "width"):
        return " x ".join(f"{size:,.0f}" for size in point.at[:2])
    varying = [axis for place, axis in enumerate(series.axes) if len({other.at[place] for other in series.points}) > 1]
    return ", ".join(
        f"{_axis(axis)} {_size(axis, value)}".strip()
        for axis, value in sizes(series, point).items()
        if axis in varying or len(series.points) == 1
    )


def _axis(name: str) -> str:
    return "" if name == "size_bytes" else name.replace("_", " ")


def _size(axis: str, value: float) -> str:
    return readable.size(value) if axis.endswith("_bytes") else f"{value:,.0f}"


def fingerprint_lines(profile: Profile) -> list[tuple[str, str]]:
    """The measured machine and the extent of the measurement, as (what, value)."""
    mark = profile.fingerprint
    memory = f"{readable.size(mark.device_memory_bytes)}{' for each rank' if mark.ranks > 1 else ''}"
    device = known_device(mark)
    lines = [
        ("device", f"{mark.device}{f' ({device.name} of the catalog)' if device else ''}, {memory}"),
        (
            "ranks",
            f"{mark.ranks} on {mark.nodes} node{'s' * (mark.nodes > 1)}, {mark.threads} host thread{'s' * (mark.threads > 1)} each",
        ),
        ("host", f"{mark.host}, {mark.cores} cores"),
        ("software", ", ".join(_software(mark))),
    ]
    if mark.clock_hz:
        lines.append(("clock", f"{readable.amount(mark.clock_hz, 'Hz')} while it computed"))
    took = f"{profile.points:,} points and {len(profile.figures)} figures in {readable.seconds(profile.seconds)}"
    lines.append(("measured", f"{mark.date}: {took}{'' if profile.complete else '; incomplete'}"))
    return lines


def _software(mark: MachineFingerprint) -> Iterable[str]:
    yield f"torch {mark.torch}"
    yield f"Python {mark.python}"
    if mark.cuda:
        yield f"CUDA {mark.cuda}"
    if mark.driver:
        yield f"driver {mark.driver}"


def figure_words(figure: Figure) -> str:
    """A figure's value with its unit and observed range: `3.00 µs (2.90 µs to 3.10 µs)`."""
    shown = _amount(figure.value, figure.unit)
    if figure.low is None or figure.high is None:
        return shown
    return f"{shown} ({_amount(figure.low, figure.unit)} to {_amount(figure.high, figure.unit)})"


def _amount(value: float, unit: str) -> str:
    if unit in _SECONDS:
        return readable.seconds(value)
    if unit in _BYTES:
        return readable.size(value)
    if unit in _SHARES:
        return readable.share(value) if unit == "share" else readable.number(value)
    return readable.amount(value, unit)


@dataclass(frozen=True)
class LayerLine:
    """One quantity of a layer check. `difference`: predicted / measured - 1."""

    layer: str
    what: str
    measured: str
    predicted: str
    difference: float


def layer_lines(profile: Profile) -> list[LayerLine]:
    """Every measured layer beside the sum of its operators."""
    return [line for check in profile.layers for line in _check_lines(check)]


def _check_lines(check: LayerCheck) -> list[LayerLine]:
    layer = (
        f"{check.model}, {check.micro_batch} x {check.seq_len:,} tokens, {check.format}, recompute {check.recompute}"
    )
    rows = (
        ("forward", readable.seconds, check.forward_seconds, check.predicted_forward_seconds),
        ("backward", readable.seconds, check.backward_seconds, check.predicted_backward_seconds),
        ("activations kept", readable.size, check.activation_bytes, check.predicted_activation_bytes),
    )
    return [
        LayerLine(layer, what, words(measured), words(predicted), predicted / measured - 1)
        for what, words, measured, predicted in rows
        if measured > 0
    ]


def parameter_words(parameters: dict[str, float]) -> str:
    """`flops_per_s 1.00e+11, start_seconds 2.00e-06`."""
    return ", ".join(f"{name} {value:.3g}" for name, value in parameters.items())
