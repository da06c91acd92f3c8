"""The chart of one measure against another over the jobs that were tried."""

from dataclasses import dataclass

from shardwright.reports.charts import Axis, Lines, Mark
from shardwright.reports.charts import Curve as Drawn


@dataclass(frozen=True)
class Curve:
    """Points with their labels, on a logarithmic axis of x and one of y that is logarithmic unless `linear`.

    Attributes:
        title, x_label, y_label: texts.
        points: (x, y) in the units of the labels, all above 0.
        labels: words about each point.
        joined: indices of the points that a line joins, such as those that no other point beats; `joined_label` says which.
        best: the index of the point that is the answer, None for none; `best_label` says what it is.
        limit: a level of y that must not be passed, None for none; `limit_label` says what it is.
    """

    title: str
    x_label: str
    y_label: str
    points: tuple[tuple[float, float], ...]
    labels: tuple[str, ...]
    joined: tuple[int, ...]
    joined_label: str
    best: int | None = None
    best_label: str = ""
    limit: float | None = None
    limit_label: str = ""
    linear: bool = False


def curve_chart(curve: Curve) -> Lines:
    """The chart: the points that a line joins, the others, the answer, and the limit."""
    points = [(x, y, label) for (x, y), label in zip(curve.points, curve.labels, strict=True)]
    others = [point for index, point in enumerate(points) if index not in curve.joined]
    joined = tuple(sorted(points[index] for index in curve.joined))
    drawn = [
        Drawn(curve.joined_label, "series0", joined),
        Drawn(curve.joined_label, "series0", joined, loose=True),
    ]
    if others:
        drawn.append(Drawn("others", "other", tuple(others), loose=True))
    if curve.best is not None:
        drawn.append(Drawn(curve.best_label, "chosen", (points[curve.best],), loose=True))
    return Lines(
        x=Axis(name=curve.x_label, logarithmic=True),
        y=Axis(name=curve.y_label, logarithmic=not curve.linear, from_data=True),
        curves=tuple(drawn),
        marks=() if curve.limit is None else (Mark(curve.limit_label, curve.limit),),
    )
