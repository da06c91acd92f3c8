"""A sweep: the same comparison at several settings, its crossover points, and its rows for a spreadsheet."""

import csv
import io
import math
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shardwright.base import units as readable
from shardwright.specs import Spec

from .comparison import ComparedPlan, Comparison

_PRINTED = 0.001  # of a step, whose three digits tell no less

AXIS_WORDS = {
    "gpus": "devices",
    "gpus-weak": "devices",
    "global-batch": "sequences of a global batch",
    "seq-len": "tokens of a sequence",
    "device": "device",
}
CSV_COLUMNS = (
    *("sweep", "value", "devices", "plan", "mesh", "step_seconds", "low_80", "high_80"),
    *("tokens_per_s", "mfu", "peak_memory_bytes", "lacking_bytes", "reason"),
)


class SweepPoint(Spec):
    """The comparison at one setting; `value` is a number, or the name of a device."""

    value: int | str
    devices: int
    tokens_per_step: int
    comparison: Comparison


class Sweep(Spec):
    """Comparisons of the same ways at several settings. `name`: what varies, as the command line calls it."""

    name: str
    points: tuple[SweepPoint, ...]

    @property
    def ways(self) -> tuple[str, ...]:
        """The names of the compared ways, in the order of the first comparison."""
        return tuple(dict.fromkeys(row.name for point in self.points for row in point.comparison.rows))

    @property
    def is_numeric(self) -> bool:
        return all(isinstance(point.value, int) for point in self.points)

    def row(self, way: str, point: SweepPoint) -> ComparedPlan | None:
        """The row of a way at a point; None where there is none, such as that of a part of a mixed cluster."""
        return next((row for row in point.comparison.rows if row.name == way), None)

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dumps`."""
        return self.model_dump(mode="json")


def crossovers(sweep: Sweep) -> list[str]:
    """Sentences: which way is fastest from where on, and where two of them cross.

    Between two settings the steps of two ways are taken to be powers of the value, which makes a crossing in logarithms linear.
    """
    points = sorted(sweep.points, key=lambda point: point.value) if sweep.is_numeric else list(sweep.points)
    what, lines = AXIS_WORDS[sweep.name], []
    before: tuple[SweepPoint, ComparedPlan] | None = None
    for point in points:
        best = _fastest(sweep, point, before)
        if best is None:
            lines.append(f"Nothing fits at {shown(point.value)} {what}.")
        elif before is None:
            lines.append(f"{best.name} is fastest at {shown(point.value)} {what}.")
        elif before[1].name != best.name:
            lines.append(_overtakes(sweep, before, (point, best), what))
        before = (point, best) if best is not None else before
    return lines


def _fastest(sweep: Sweep, point: SweepPoint, before: tuple[SweepPoint, ComparedPlan] | None) -> ComparedPlan | None:
    """The fastest way at a point: the one before for as long as none is faster by a digit that is printed."""
    best, held = point.comparison.fastest, sweep.row(before[1].name, point) if before else None
    if best is None or held is None or best.step_seconds is None or held.step_seconds is None:
        return best
    return held if held.step_seconds <= best.step_seconds * (1 + _PRINTED) else best


def _overtakes(
    sweep: Sweep, before: tuple[SweepPoint, ComparedPlan], after: tuple[SweepPoint, ComparedPlan], what: str
) -> str:
    (left, old), (right, new) = before, after
    start = (
        f"{new.name} is fastest from {shown(right.value)} {what} on"
        if sweep.is_numeric
        else f"{new.name} is fastest on {right.value}"
    )
    new_left, old_right = sweep.row(new.name, left), sweep.row(old.name, right)
    if new_left is None or new_left.step_seconds is None:
        return f"{start}; below, it does not fit." if sweep.is_numeric else f"{start}."
    if old_right is None or old_right.step_seconds is None:
        return f"{start}, where {old.name} does not fit." if sweep.is_numeric else f"{start}."
    assert old.step_seconds is not None
    assert new.step_seconds is not None
    if not (isinstance(left.value, int) and isinstance(right.value, int)):
        return (
            f"{start}; {old.name} takes {readable.share(old_right.step_seconds / new.step_seconds - 1)} longer there."
        )
    ahead, behind = (
        math.log(new_left.step_seconds / old.step_seconds),
        math.log(old_right.step_seconds / new.step_seconds),
    )
    share = ahead / (ahead + behind) if ahead + behind > 0 else 0.5
    crossing = math.exp(math.log(left.value) + share * math.log(right.value / left.value))
    return f"{start}; it overtakes {old.name} at about {readable.count(crossing)}."


def shown(value: int | str) -> str:
    """A value of a sweep as text."""
    return readable.count(value) if isinstance(value, int) else value


def sweep_csv(sweep: Sweep) -> str:
    """All rows in the columns of `CSV_COLUMNS`, one line for each way at each setting; empty cells where a way has no plan."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for point in sweep.points:
        for row in point.comparison.rows:
            writer.writerow([sweep.name, point.value, point.devices, row.name, *_figures(row), row.reason or ""])
    return text.getvalue()


def _figures(row: ComparedPlan) -> list[object]:
    if row.plan is None or row.estimate is None:
        return [""] * 8
    estimate, interval = row.estimate, row.estimate.step_seconds_intervals[0]
    fits = row.reason is None
    times = (
        [estimate.step_seconds, interval.low, interval.high, estimate.tokens_per_s, estimate.mfu] if fits else [""] * 5
    )
    return [str(row.plan.mesh), *times, estimate.peak_memory_bytes, row.lacking_bytes]


def sweep_table(sweep: Sweep) -> RenderableType:
    """Steps of every way at every setting, the fastest bold, what does not fit by what it lacks; then the crossover points."""
    first = sweep.points[0].comparison
    title = f"{first.model_name}, step time by {AXIS_WORDS[sweep.name]}"
    table = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD)
    table.add_column("plan", no_wrap=True)
    for point in sweep.points:
        table.add_column(shown(point.value), justify="right")
    for way in sweep.ways:
        table.add_row(
            Text(way), *(Text(cell(sweep, way, point), style=_style(sweep, way, point)) for point in sweep.points)
        )
    return Group(table, *map(Text, crossovers(sweep)))


def cell(sweep: Sweep, way: str, point: SweepPoint) -> str:
    """The step of a way at a setting, or in short why it has none."""
    row = sweep.row(way, point)
    if row is None:
        return "-"
    if row.step_seconds is not None:
        return readable.seconds(row.step_seconds)
    return (
        f"lacks {readable.size(row.lacking_bytes)}"
        if row.lacking_bytes
        else "no plan"
        if row.plan is None
        else "does not fit"
    )


def _style(sweep: Sweep, way: str, point: SweepPoint) -> str:
    row = sweep.row(way, point)
    if row is None or row.step_seconds is None:
        return "dim"
    return "bold" if row is point.comparison.fastest else ""
