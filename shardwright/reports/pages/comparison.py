"""The page of a comparison: the ways side by side, over a sweep where there is one, and what does not fit by how much."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from shardwright.base import units as readable
from shardwright.reports import render_page, write_page
from shardwright.reports.charts import Axis, Bars, Chart, Curve, Lines, chart_scripts, series
from shardwright.reports.plan import (
    AXIS_WORDS,
    ComparedPlan,
    Comparison,
    Sweep,
    SweepPoint,
    cell,
    choice_words,
    comparison_title,
    crossovers,
    shown,
    sweep_csv,
)
from shardwright.specs import ClusterSpec, TrainingSpec
from shardwright.specs.model import ModelSpec

from .bars import step_bars
from .report import job_lines

COLUMNS = ("plan", "choices", "step", "80% interval", "tokens/s", "MFU", "peak memory", "slower by")
_DOUBLE = 2.0
_Value = Callable[[ComparedPlan], float]


@dataclass(frozen=True, kw_only=True)
class ComparisonPage:
    """The content of the page: a job and its sweep, which has one point where nothing varies."""

    model: ModelSpec
    cluster: ClusterSpec
    training: TrainingSpec
    sweep: Sweep


def write_comparison(path: Path, page: ComparisonPage) -> tuple[Path, Path]:
    """Write the page, and beside it the same figures as CSV and JSON, whose paths are returned.

    Raises:
        SpecError: the folder is missing or not writable.
    """
    beside = path.with_suffix(".csv"), path.with_suffix(".json")
    write_page(path, render_comparison(page, beside))
    write_page(beside[0], sweep_csv(page.sweep))
    write_page(beside[1], json.dumps(page.sweep.to_json(), indent=1) + "\n")
    return beside


def render_comparison(page: ComparisonPage, beside: Sequence[Path] = ()) -> str:
    """The page as text; the same content gives the same text."""
    points, several = page.sweep.points, len(page.sweep.points) > 1
    what, charts = AXIS_WORDS[page.sweep.name], charts_of(page.sweep)
    return render_page(
        "comparison.html.j2",
        title=f"Ways to train {comparison_title(points[0].comparison) if not several else page.model.name}",
        what=what,
        job_lines=job_lines(page.model, page.cluster, page.training),
        crossovers=crossovers(page.sweep) if several else [],
        columns=COLUMNS,
        tables=[(f"{shown(point.value)} {what}", _rows(point.comparison)) for point in points],
        sweep_columns=("plan", *(shown(point.value) for point in points)) if several else (),
        sweep_rows=[(way, [_sweep_cell(page.sweep, way, point) for point in points]) for way in page.sweep.ways],
        misses=_misses(page.sweep),
        several=several,
        beside=[path.name for path in beside],
        charts=charts,
        scripts=chart_scripts(charts),
    )


def charts_of(sweep: Sweep) -> dict[str, Chart]:
    """Steps by cause of a single comparison, or throughput, its share of the ideal, and steps over a sweep."""
    if len(sweep.points) == 1:
        able = [
            row for row in sweep.points[0].comparison.rows if row.step_seconds is not None and row.estimate is not None
        ]
        return {"steps": step_bars([(row.name, row.estimate.step) for row in able if row.estimate])} if able else {}
    if not sweep.is_numeric:
        return {"devices": _device_bars(sweep)}
    x = Axis(name=AXIS_WORDS[sweep.name], logarithmic=True, doubling=True)
    return {
        "throughput": Lines(
            x=x, y=Axis(name="tokens/s", logarithmic=True), curves=_curves(sweep, _throughput, ideal=True)
        ),
        "efficiency": Lines(x=x, y=Axis(name="MFU", unit="share", from_data=True), curves=_curves(sweep, _mfu)),
    }


def _curves(sweep: Sweep, value: _Value, *, ideal: bool = False) -> tuple[Curve, ...]:
    points = sorted(sweep.points, key=lambda point: point.value)
    curves = [
        Curve(name=way, colour=series(place), points=tuple(_point(sweep, way, point, value) for point in points))
        for place, way in enumerate(sweep.ways)
        if any(_able(sweep, way, point) for point in points)
    ]
    grows = sweep.name in ("gpus", "gpus-weak")
    best = points[0].comparison.fastest
    if ideal and grows and best is not None and best.estimate is not None:
        each = best.estimate.tokens_per_s / points[0].devices
        line = tuple((float(point.value), each * point.devices) for point in points)
        curves.append(
            Curve(name="ideal scaling of the fastest at the smallest", colour="limit", points=line, dashed=True)
        )
    return tuple(curves)


def _point(sweep: Sweep, way: str, point: SweepPoint, value: _Value) -> tuple[float, float | None, str]:
    row = _able(sweep, way, point)
    if row is None or row.estimate is None:
        return float(point.value), None, ""
    interval = row.estimate.step_seconds_intervals[0]
    words = f"step {readable.seconds(row.estimate.step_seconds)}, 80%: {readable.seconds(interval.low)} to {readable.seconds(interval.high)}"
    return float(point.value), value(row), words


def _able(sweep: Sweep, way: str, point: SweepPoint) -> ComparedPlan | None:
    row = sweep.row(way, point)
    return row if row is not None and row.step_seconds is not None else None


def _throughput(row: ComparedPlan) -> float:
    assert row.estimate is not None
    return row.estimate.tokens_per_s


def _mfu(row: ComparedPlan) -> float:
    assert row.estimate is not None
    return row.estimate.mfu


def _device_bars(sweep: Sweep) -> Bars:
    """The fastest way's step on each device, by cause, with its name."""
    found = [(point, point.comparison.fastest) for point in sweep.points]
    return step_bars(
        [(f"{shown(point.value)}: {best.name}", best.estimate.step) for point, best in found if best and best.estimate]
    )


def _rows(comparison: Comparison) -> list[tuple[list[str], str | None, bool]]:
    """Cells in the order of `COLUMNS`, the reason where it cannot run, and whether it is the fastest."""
    best = comparison.fastest
    return [(_cells(row, best), row.reason, row is best) for row in comparison.rows]


def _cells(row: ComparedPlan, best: ComparedPlan | None) -> list[str]:
    if (
        row.plan is None
        or row.estimate is None
        or row.step_seconds is None
        or best is None
        or best.step_seconds is None
    ):
        return [row.name]
    estimate, interval, ratio = (
        row.estimate,
        row.estimate.step_seconds_intervals[0],
        row.step_seconds / best.step_seconds,
    )
    return [
        row.name,
        "; ".join((choice_words(row.plan), *row.trained)),
        readable.seconds(row.step_seconds),
        f"{readable.seconds(interval.low)} to {readable.seconds(interval.high)}",
        readable.count(estimate.tokens_per_s),
        readable.share(estimate.mfu),
        readable.size(estimate.peak_memory_bytes),
        "-" if row is best else readable.share(ratio - 1) if ratio < _DOUBLE else f"x {readable.number(ratio)}",
    ]


def _sweep_cell(sweep: Sweep, way: str, point: SweepPoint) -> tuple[str, str, bool]:
    """The step, its interval where it has one, and whether it is the fastest there."""
    row = _able(sweep, way, point)
    if row is None or row.estimate is None:
        return cell(sweep, way, point), "", False
    interval = row.estimate.step_seconds_intervals[0]
    between = f"{readable.seconds(interval.low)} to {readable.seconds(interval.high)}"
    return cell(sweep, way, point), between, row is point.comparison.fastest


def _misses(sweep: Sweep) -> list[tuple[str, str, str, str]]:
    """What cannot run: the setting, the way, what a device lacks, and the reason."""
    return [
        (shown(point.value), row.name, readable.size(row.lacking_bytes) if row.lacking_bytes else "-", row.reason)
        for point in sweep.points
        for row in point.comparison.rows
        if row.reason is not None
    ]
