"""The difference of two profiles: which operations take longer, by how much, and whether that exceeds noise."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.interpolate import RBFInterpolator

from shardwright.specs import Figure, MachineFingerprint, Point, Profile, Series

from .work import rate

Verdict = Literal["slower", "faster", "more", "less", "within noise"]

# Medians of two runs on one machine differ by more than their intervals say: clocks, memory layout, neighbours.
_LEAST_NOISE = {"gpu": 0.02, "cpu": 0.05}
# for a figure observed once, either way; for a share observed once, in points
_SINGLE_NOISE = {"gpu": 0.05, "cpu": 0.15}
_SINGLE_SHARE = 0.05
_SIGMAS_OF_MAD = 1.4826  # of a normal distribution
_ENOUGH_COMMON = 3
_AGREEING = 0.75
_MOST_NEIGHBOURS = 16


@dataclass(frozen=True)
class SeriesDifference:
    """One series in both profiles. `ratio`: seconds of the second over the first, the median over `sizes` common sizes,
    `low` and `high` the extreme ones; `noise`: how far from 1 the ratio may lie by chance. `interpolated`: whether the sizes
    of one lie between those of the other. `rate_a`, `rate_b`: medians over these sizes, in the unit of the operation."""

    key: str
    sizes: int
    interpolated: bool
    ratio: float
    low: float
    high: float
    noise: float
    rate_a: float | None
    rate_b: float | None
    verdict: Verdict


@dataclass(frozen=True)
class FigureDifference:
    """One figure in both profiles; `ratio` of the second over the first, None where the first is 0."""

    name: str
    a: Figure
    b: Figure
    ratio: float | None
    verdict: Verdict


class FieldDifference(NamedTuple):
    """A field of the fingerprints that differs."""

    field: str
    a: Any
    b: Any


@dataclass(frozen=True)
class ProfileDifference:
    """Series and figures of both, those that differ most first; and what only one of them has."""

    fingerprint: list[FieldDifference]
    series: list[SeriesDifference]
    figures: list[FigureDifference]
    only_in_a: list[str]
    only_in_b: list[str]
    incomparable: list[str]

    @property
    def beyond_noise(self) -> int:
        """How many series and figures differ by more than noise."""
        verdicts = [*(each.verdict for each in self.series), *(each.verdict for each in self.figures)]
        return sum(verdict != "within noise" for verdict in verdicts)

    def to_json(self) -> dict[str, Any]:
        return {
            "beyond_noise": self.beyond_noise,
            "fingerprint": [each._asdict() for each in self.fingerprint],
            "series": [asdict(each) for each in self.series],
            "figures": [
                {"name": each.name, "a": each.a.value, "b": each.b.value, "unit": each.a.unit}
                | {"ratio": each.ratio, "verdict": each.verdict}
                for each in self.figures
            ],
            "only_in_a": self.only_in_a,
            "only_in_b": self.only_in_b,
            "incomparable": self.incomparable,
        }


def compare_profiles(a: Profile, b: Profile) -> ProfileDifference:
    """Compare `b` with `a`; ratios above 1 mean that `b` is slower."""
    ours, theirs = _by_key(a), _by_key(b)
    kind = "cpu" if "cpu" in (a.fingerprint.kind, b.fingerprint.kind) else "gpu"
    both = [key for key in ours if key in theirs]
    found = {key: _series_difference(ours[key], theirs[key], _LEAST_NOISE[kind]) for key in both}
    figures = [_figure_difference(n, a.figures[n], b.figures[n], kind) for n in a.figures if n in b.figures]
    return ProfileDifference(
        fingerprint=_fields(a.fingerprint, b.fingerprint),
        series=sorted((each for each in found.values() if each), key=lambda each: -abs(math.log(each.ratio))),
        figures=sorted(figures, key=_how_much),
        only_in_a=[key for key in (*ours, *a.figures) if key not in (*theirs, *b.figures)],
        only_in_b=[key for key in (*theirs, *b.figures) if key not in (*ours, *a.figures)],
        incomparable=[key for key, each in found.items() if each is None],
    )


def _by_key(profile: Profile) -> dict[str, Series]:
    return {series.key: series for series in profile.series if series.points}


def _fields(a: MachineFingerprint, b: MachineFingerprint) -> list[FieldDifference]:
    return [
        FieldDifference(name, getattr(a, name), getattr(b, name))
        for name in MachineFingerprint.model_fields
        if getattr(a, name) != getattr(b, name)
    ]


def _scatter(logs: Sequence[float]) -> float:
    """Standard deviation of the changes between sizes of one series, from their median absolute deviation. Two runs of a shared
    machine differ by that, even if each has narrow intervals."""
    middle = statistics.median(logs)
    return _SIGMAS_OF_MAD * statistics.median(abs(log - middle) for log in logs)


class _Pair(NamedTuple):
    """One size in both profiles: the logarithm of the ratio of seconds, its uncertainty, and the rates."""

    log_ratio: float
    noise: float
    rate_a: float | None
    rate_b: float | None


def _series_difference(a: Series, b: Series, least_noise: float) -> SeriesDifference | None:
    """The difference of a series; None if no size of one lies at, or between, those of the other."""
    if a.axes != b.axes:
        return None
    theirs = {point.at: point for point in b.points}
    pairs = [_pair(a, point, theirs[point.at]) for point in a.points if point.at in theirs]
    interpolated = len(pairs) < min(_ENOUGH_COMMON, len(a.points), len(b.points))
    if interpolated:
        pairs = _between(a, b)
    if not pairs:
        return None
    logs = [pair.log_ratio for pair in pairs]
    middle = statistics.median(logs)
    noise = max(math.hypot(statistics.median(pair.noise for pair in pairs), _scatter(logs)), least_noise)
    agree = sum(log * middle > 0 for log in logs) >= _AGREEING * len(logs)
    beyond = abs(middle) > noise and agree
    return SeriesDifference(
        key=a.key,
        sizes=len(pairs),
        interpolated=interpolated,
        ratio=math.exp(middle),
        low=math.exp(min(logs)),
        high=math.exp(max(logs)),
        noise=noise,
        rate_a=_median([pair.rate_a for pair in pairs]),
        rate_b=_median([pair.rate_b for pair in pairs]),
        verdict=("slower" if middle > 0 else "faster") if beyond else "within noise",
    )


def _pair(series: Series, a: Point, b: Point, more_noise: float = 0.0) -> _Pair:
    noise = math.hypot(_half_width(a), _half_width(b), more_noise)
    return _Pair(math.log(b.seconds / a.seconds), noise, rate(series, a), rate(series, b))


def _half_width(point: Point) -> float:
    """Half the width of the interval, on a logarithmic scale."""
    return math.log(point.high_seconds / point.low_seconds) / 2


def _between(a: Series, b: Series) -> list[_Pair]:
    """Pairs at the sizes of `a` that lie within those of `b`. The seconds of `b` are interpolated linearly in logarithms. The
    noise is at least the error of interpolating a point of `b` between its others."""
    sizes = np.log([point.at for point in b.points])
    varying = np.ptp(sizes, axis=0) > 0
    inside = [point for point in a.points if _is_inside(np.log(point.at), sizes)]
    if not inside or len(b.points) < 2 + int(varying.sum()):
        return []
    x, y = sizes[:, varying], np.log([point.seconds for point in b.points])
    missed = _left_out_error(x, y)
    guessed = _interpolator(x, y)(np.log([point.at for point in inside])[:, varying])
    width = statistics.median(_half_width(point) for point in b.points)
    return [_guessed_pair(a, point, math.exp(log), width, missed) for point, log in zip(inside, guessed, strict=True)]


def _guessed_pair(series: Series, point: Point, seconds: float, width: float, missed: float) -> _Pair:
    stretch = math.exp(width)
    other = Point(
        at=point.at, seconds=seconds, low_seconds=seconds / stretch, high_seconds=seconds * stretch, repeats=1
    )
    return _pair(series, point, other, missed)


def _is_inside(at: np.ndarray[Any, Any], sizes: np.ndarray[Any, Any]) -> bool:
    return bool(np.all(at >= sizes.min(axis=0) - 1e-9) and np.all(at <= sizes.max(axis=0) + 1e-9))


def _interpolator(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> RBFInterpolator:
    return RBFInterpolator(x, y, kernel="linear", degree=1, neighbors=min(_MOST_NEIGHBOURS, len(y)))


def _left_out_error(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> float:
    """Median error of each point interpolated from the others."""
    if len(y) <= 2 + x.shape[1]:
        return 0.0
    kept = [np.arange(len(y)) != place for place in range(len(y))]
    misses = [abs(float(_interpolator(x[keep], y[keep])(x[~keep])[0] - y[~keep][0])) for keep in kept]
    return statistics.median(misses)


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _figure_difference(name: str, a: Figure, b: Figure, kind: str) -> FigureDifference:
    """The difference of a figure. It exceeds noise if the observed ranges do not touch and the change exceeds that of two usual runs."""
    if a.unit != b.unit or not (a.value or b.value):
        return FigureDifference(name, a, b, None, "within noise")
    (low_a, high_a), (low_b, high_b) = _range(a, kind), _range(b, kind)
    ratio = b.value / a.value if a.value else None
    close = ratio is not None and ratio > 0 and abs(math.log(ratio)) <= _LEAST_NOISE[kind]
    verdict: Verdict = (
        "within noise" if close else "more" if low_b > high_a else "less" if high_b < low_a else "within noise"
    )
    return FigureDifference(name, a, b, ratio, verdict)


def _range(figure: Figure, kind: str) -> tuple[float, float]:
    slack = _SINGLE_SHARE / 2 if figure.unit == "share" else _SINGLE_NOISE[kind] * figure.value
    low = figure.low if figure.low is not None else figure.value - slack
    high = figure.high if figure.high is not None else figure.value + slack
    return low, high


def _how_much(each: FigureDifference) -> float:
    return -abs(math.log(each.ratio)) if each.ratio else -math.inf
