"""The figures of a profile, as a list and as files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes

from shardwright.base import SpecError
from shardwright.reports.figures import Paint, figure_of, write_plot
from shardwright.specs import Profile, Series

from .fit_chart import fit_chart, fit_labels
from .rate_charts import PARTS, attention_rates, kernel_rates, line_count, matmul_rates, operator_rates, transfer_rates
from .roofline import arithmetic_points, roofline
from .work import Family, family

_MOST_LINES = 14  # lines that one chart can distinguish
_TRANSFERS: dict[Family, str] = {
    "casts": "Casts to 8 and 4 bits by size",
    "optimizer": "Optimizer step by size",
    "host copies": "Copies between host and device by size",
    "disk": "Disk by size",
    "collectives": "Collectives by size: the rate of the busiest link",
}
_MATMULS = {"": "Matmul", "grouped_": "Grouped matmul", "looped_": "Matmul of experts in a loop"}
_FITS: dict[Family, str] = {
    "matmul": "Fits of matmuls",
    "attention": "Fits of attention",
    "operators": "Fits of memory-bound operators",
    "casts": "Fits of casts",
    "optimizer": "Fits of the optimizer step",
    "host copies": "Fits of copies",
    "disk": "Fits of the disk",
    "collectives": "Fits of collectives",
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
    """The figures for which this profile has points."""
    roofs = [Chart("roofline", "Roofline", roofline(profile), height=5.4)] if arithmetic_points(profile) else []
    return [
        *roofs,
        *_matmuls(profile),
        *_attention(profile),
        *_operators(profile),
        *_transfers(profile),
        *_fits(profile),
    ]


def _matmuls(profile: Profile) -> Iterator[Chart]:
    """By format, those of experts apart."""
    matmuls = _of(profile, "matmul")
    for format in dict.fromkeys(each.format for each in matmuls):
        for kind, words in _MATMULS.items():
            variants = [f"{kind}{part}" for part in PARTS]
            series = [each for each in matmuls if each.format == format and each.variant in variants]
            if series:
                word = kind.replace("_", "-")
                yield Chart(f"matmul-{word}{format}", f"{words} by shape, {format}", matmul_rates(series), height=4.0)


def _attention(profile: Profile) -> Iterator[Chart]:
    """By format; other kernels and masks than the default ones in a chart of their own."""
    attention = _of(profile, "attention")
    for format in dict.fromkeys(each.format for each in attention):
        series = [each for each in attention if each.format == format]
        if plain := [each for each in series if each.variant in ("forward", "backward")]:
            yield Chart(f"attention-{format}", f"Attention by length, {format}", attention_rates(plain), height=4.4)
        if len(plain) < len(series):
            yield Chart(
                f"attention-kernels-{format}", f"Attention by kernel, {format}", kernel_rates(series), height=4.4
            )


def _operators(profile: Profile) -> Iterator[Chart]:
    operators = _of(profile, "operators")
    for format in dict.fromkeys(each.format for each in operators):
        series = [each for each in operators if each.format == format]
        title = f"Memory-bound operators by size, {format}"
        yield Chart(f"bandwidth-operators-{format}", title, operator_rates(series), height=5.0)


def _transfers(profile: Profile) -> Iterator[Chart]:
    """One chart for each kind, or for each operation if one chart has too many lines."""
    for kind, title in _TRANSFERS.items():
        series, name = _of(profile, kind), f"bandwidth-{kind.replace(' ', '-')}"
        if not series:
            continue
        if (lines := line_count(series)) <= _MOST_LINES:
            yield Chart(name, title, transfer_rates(series), height=max(4.4, 1.2 + 0.22 * lines))
            continue
        for operation in dict.fromkeys(each.operation for each in series):
            some = [each for each in series if each.operation == operation]
            named = f"{title}, {operation.replace('_', ' ')}"
            height = max(4.4, 1.2 + 0.22 * line_count(some))
            yield Chart(f"{name}-{operation.replace('_', '-')}", named, transfer_rates(some), height=height)


def _fits(profile: Profile) -> Iterator[Chart]:
    for kind, title in _FITS.items():
        series = [each for each in _of(profile, kind) if each.curve is not None]
        if series:
            height = max(4.2, 1.2 + 0.22 * len(fit_labels(series)))
            yield Chart(f"fits-{kind.replace(' ', '-')}", title, fit_chart(series), height=height)


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
        write_plot(folder / f"{chart.name}.png", _titled(chart), width=chart.width, height=chart.height)
    return [folder / f"{chart.name}.png" for chart in charts]


def _titled(chart: Chart) -> Paint:
    """The chart with its title above, because a file has no page around it."""

    def paint(axes: Axes) -> None:
        figure = figure_of(axes)
        chart.paint(axes)
        figure.suptitle(chart.title, x=0.01, ha="left", fontsize=11)

    return paint


def _of(profile: Profile, kind: Family) -> Sequence[Series]:
    return [each for each in profile.series if each.points and family(each.operation) == kind]
