"""Charts as data: what a page holds and draw.js draws. Values keep their full precision, curves seven digits.

Units are those of draw.js: "s", "B", "share" or "" for a plain number. A `colour` is a key of `palette.MEANINGS`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

Unit = Literal["s", "B", "share", ""]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What an axis shows. `from_data`: it need not begin at 0; `doubling`: a logarithmic axis has its ticks at powers of two."""

    name: str
    unit: Unit = ""
    logarithmic: bool = False
    from_data: bool = False
    doubling: bool = False


@dataclass(frozen=True)
class Mark:
    """A dashed line across a chart."""

    name: str
    value: float
    colour: str = "limit"


@dataclass(frozen=True)
class Part:
    """One part of every bar; `values` in the order of the rows, None for none."""

    name: str
    colour: str
    values: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class Bars:
    """Stacked bars, one for each row. `share`: each part carries its share of its bar."""

    kind: ClassVar[str] = "bars"
    axis: str
    unit: Unit
    rows: tuple[str, ...]
    parts: tuple[Part, ...]
    marks: tuple[Mark, ...] = ()
    share: bool = False


@dataclass(frozen=True)
class Curve:
    """Points (x, y) in the order of x, a third item of a point is words about it; y is None where the curve has a gap. `loose`: points
    in any order, which no line joins."""

    name: str
    colour: str
    points: tuple[tuple[float, float | None] | tuple[float, float | None, str], ...]
    stepped: bool = False
    stacked: bool = False
    dashed: bool = False
    loose: bool = False


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Curves over one axis, zoomed along x."""

    kind: ClassVar[str] = "lines"
    x: Axis
    y: Axis
    curves: tuple[Curve, ...]
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True)
class Strip:
    """Values of one row, each with words about it; `quartiles` are least, lower quartile, median, upper quartile and greatest."""

    name: str
    values: tuple[tuple[float, str], ...]
    quartiles: tuple[float, float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Strips:
    """Values along one axis, a row for each of `strips`: every value as a dot, over a box from quartile to quartile."""

    kind: ClassVar[str] = "strips"
    x: Axis
    strips: tuple[Strip, ...]


@dataclass(frozen=True, kw_only=True)
class Point:
    """A marked point. `mark`: a character or two inside it; `words`: what else the tooltip says."""

    x: float
    y: float
    name: str
    mark: str = ""
    words: str = ""


@dataclass(frozen=True)
class PointGroup:
    """Points of one meaning."""

    name: str
    colour: str
    points: tuple[Point, ...]


@dataclass(frozen=True, kw_only=True)
class Points:
    """Points by two measures, less of each being better, and the front of those that no other point beats."""

    kind: ClassVar[str] = "points"
    x: Axis
    y: Axis
    groups: tuple[PointGroup, ...]

    @property
    def front(self) -> list[tuple[float, float]]:
        """The points that none beats in both measures, in the order of x."""
        found: list[tuple[float, float]] = []
        for x, y in sorted({(one.x, one.y) for group in self.groups for one in group.points}):
            if not found or y < found[-1][1]:
                found.append((x, y))
        return found


@dataclass(frozen=True, kw_only=True)
class Held:
    """The memory of one pipeline rank over a step: parts that stay, and what changes at `seconds`."""

    name: str
    held: tuple[tuple[Mapping[str, str], float], ...]
    seconds: Sequence[float]
    moving: Sequence[float]
    marks: tuple[Mark, ...]


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory over a step, of one rank at a time; `moving` names what changes."""

    kind: ClassVar[str] = "memory"
    seconds: float
    moving: Mapping[str, str]
    ranks: tuple[Held, ...]


@dataclass(frozen=True, kw_only=True)
class TimelineChart:
    """Blocks of time in rows. Times are whole `tick`s of seconds, so that a row is lists of small numbers.

    Attributes:
        ticks: length of the step.
        rows: names of the ranks.
        order: kinds of passes, from the top of a bin.
        works: what a block may be: `ticks`, and its `passes` with kind, stage and the parts of one pass.
        lanes: for each row its work and its sends: `gaps` before the blocks, indices of `works`, `microbatches` (-1 for none), and
            the microbatches of the second pass where two are overlapped.
    """

    kind: ClassVar[str] = "timeline"
    tick: float
    ticks: int
    rows: tuple[str, ...]
    order: tuple[str, ...]
    works: tuple[Mapping[str, Any], ...] = field(repr=False)
    lanes: tuple[Mapping[str, Any], ...] = field(repr=False)


Chart = Bars | Lines | Strips | Points | Memory | TimelineChart


def chart_json(chart: Chart) -> dict[str, Any]:
    """The chart as plain data, with its kind."""
    found = {"kind": chart.kind, **asdict(chart)}
    if isinstance(chart, Points):
        found["front"] = chart.front
    return found


def seven_digits(value: float) -> float:
    """A value of a curve, which nobody reads to more digits and which then takes half the room."""
    return float(f"{value:.7g}")
