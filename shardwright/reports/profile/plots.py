"""The charts of a profile."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from shardwright.reports.charts import Chart
from shardwright.specs import Profile, Series

from .fit_chart import fit_charts
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
class Figure:
    """Charts under one title, each with a name of its own, empty for a single one. `name` tells figures of a page apart."""

    name: str
    title: str
    charts: Mapping[str, Chart]


def profile_figures(profile: Profile) -> list[Figure]:
    """The figures for which this profile has points."""
    roofs = [Figure("roofline", "Roofline", {"": roofline(profile)})] if arithmetic_points(profile) else []
    found = (
        *roofs,
        *_matmuls(profile),
        *_attention(profile),
        *_operators(profile),
        *_transfers(profile),
        *_fits(profile),
    )
    return [figure for figure in found if figure.charts]


def _matmuls(profile: Profile) -> Iterator[Figure]:
    """By format, those of experts apart."""
    matmuls = _of(profile, "matmul")
    for format in dict.fromkeys(each.format for each in matmuls):
        for kind, words in _MATMULS.items():
            variants = [f"{kind}{part}" for part in PARTS]
            series = [each for each in matmuls if each.format == format and each.variant in variants]
            if series:
                word = kind.replace("_", "-")
                yield Figure(f"matmul-{word}{format}", f"{words} by shape, {format}", matmul_rates(series))


def _attention(profile: Profile) -> Iterator[Figure]:
    """By format; other kernels and masks than the default ones in a figure of their own."""
    attention = _of(profile, "attention")
    for format in dict.fromkeys(each.format for each in attention):
        series = [each for each in attention if each.format == format]
        if plain := [each for each in series if each.variant in ("forward", "backward")]:
            yield Figure(f"attention-{format}", f"Attention by length, {format}", attention_rates(plain))
        if len(plain) < len(series):
            yield Figure(f"attention-kernels-{format}", f"Attention by kernel, {format}", kernel_rates(series))


def _operators(profile: Profile) -> Iterator[Figure]:
    operators = _of(profile, "operators")
    for format in dict.fromkeys(each.format for each in operators):
        series = [each for each in operators if each.format == format]
        title = f"Memory-bound operators by size, {format}"
        yield Figure(f"bandwidth-operators-{format}", title, operator_rates(series))


def _transfers(profile: Profile) -> Iterator[Figure]:
    """One chart for each kind, or for each operation if one chart has too many lines."""
    for kind, title in _TRANSFERS.items():
        series, name = _of(profile, kind), f"bandwidth-{kind.replace(' ', '-')}"
        if not series:
            continue
        if line_count(series) <= _MOST_LINES:
            yield Figure(name, title, {"": transfer_rates(series)})
            continue
        for operation in dict.fromkeys(each.operation for each in series):
            some = [each for each in series if each.operation == operation]
            named = f"{title}, {operation.replace('_', ' ')}"
            yield Figure(f"{name}-{operation.replace('_', '-')}", named, {"": transfer_rates(some)})


def _fits(profile: Profile) -> Iterator[Figure]:
    for kind, title in _FITS.items():
        series = [each for each in _of(profile, kind) if each.curve is not None]
        if series:
            yield Figure(f"fits-{kind.replace(' ', '-')}", title, fit_charts(series))


def _of(profile: Profile, kind: Family) -> Sequence[Series]:
    return [each for each in profile.series if each.points and family(each.operation) == kind]
