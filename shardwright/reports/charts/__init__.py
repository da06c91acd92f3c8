"""Charts of pages that zoom and tell figures at a touch: as data, in one palette, drawn by a library inside the page."""

from .embed import chart_scripts, name_of
from .kinds import (
    Axis,
    Bars,
    Chart,
    Curve,
    Held,
    Lines,
    Mark,
    Memory,
    Part,
    Point,
    PointGroup,
    Points,
    TimelineChart,
    chart_json,
    seven_digits,
)
from .palette import CAUSES, MEANINGS, PARTS, PASSES, series

__all__ = [
    "CAUSES",
    "MEANINGS",
    "PARTS",
    "PASSES",
    "Axis",
    "Bars",
    "Chart",
    "Curve",
    "Held",
    "Lines",
    "Mark",
    "Memory",
    "Part",
    "Point",
    "PointGroup",
    "Points",
    "TimelineChart",
    "chart_json",
    "chart_scripts",
    "name_of",
    "series",
    "seven_digits",
]
