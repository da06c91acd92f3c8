"""The order of measuring: first the most informative sizes of every probe, then sizes where interpolation is worst."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from shardwright.profiler.sizes import predicted_seconds
from shardwright.profiler.timing import Probe, Sizes
from shardwright.specs import Point, Series

ExpectedError = Callable[[Series], Sequence[float]]
"""For each point of a series, |predicted / measured - 1| predicted without that point; empty with too few points."""

DEFAULT_WEIGHTS: Mapping[str, float] = {
    **dict.fromkeys(("matmul/forward", "matmul/input_gradient", "matmul/weight_gradient"), 16.0),
    **dict.fromkeys(("attention/forward", "attention/backward"), 24.0),
    **dict.fromkeys(("eager_rmsnorm", "eager_rotary", "eager_gated_activation", "cross_entropy", "adamw/fused"), 2.0),
    **dict.fromkeys(
        (f"attention/{way}-{name}" for way in ("forward", "backward") for name in ("flash", "cudnn", "flash3")), 4.0
    ),
    **dict.fromkeys(
        (f"attention/{way}-{name}" for way in ("forward", "backward") for name in ("mla", "cudnn-mla", "flash3-mla")),
        1.0,
    ),
    "attention": 0.25,  # variants besides the default: named kernels, no causal mask
    "cast": 0.5,
    **dict.fromkeys(("matmul/grouped_forward", "matmul/grouped_input_gradient", "matmul/grouped_weight_gradient"), 2.0),
    "matmul": 0.5,  # experts in a loop, scales of rows
    **dict.fromkeys(("rmsnorm", "rotary", "gated_activation", "dropout"), 0.25),  # of compiled layers, or rarely used
    **dict.fromkeys(("adamw/foreach", "sgd", "host_adamw"), 0.5),
}
"""Weight of the points of an operation, or of one variant of it: how much they tell about a training step."""

_TELLING_SIZES = 6.0
_UNCERTAIN = 0.1
_NEAREST_RATIO = 1.2


@dataclass(frozen=True)
class Item:
    """One size of one probe, by the probe's index."""

    probe: int
    at: Sizes


class Agenda:
    """The measured sizes, the ones left out, and the next ones.

    First come the most informative sizes, 6 sqrt(w) of a probe of weight w, its k-th in the order of k/w. Every probe
    has its first size before any has its second. A heavy probe gets w sizes for each of a light one.

    Next come the points whose expected error times weight is largest. The size between such a point and its farthest
    neighbour is measured. Two points are neighbours if no third point lies inside the sphere that they span over
    logarithmic sizes (Gabriel and Sokal 1969).

    The other first sizes come when interpolation is good everywhere. Uncertain points are measured once more before
    that.
    """

    def __init__(
        self, probes: Sequence[Probe], *, weights: Mapping[str, float], expected_error: ExpectedError, tolerance: float
    ) -> None:
        self._probes = probes
        self._weights = [
            weights.get(f"{probe.operation}/{probe.variant}", weights.get(probe.operation, 1.0)) for probe in probes
        ]
        self._expected_error = expected_error
        self._tolerance = tolerance
        self._points: list[dict[Sizes, Point]] = [{} for _ in probes]
        self._settled: set[Item] = set()
        self._times_measured: Counter[Item] = Counter()
        self._excess: dict[int, tuple[tuple[Point, ...], list[tuple[float, int]]]] = {}
        self._telling, self._others = self._ordered()

    def _ordered(self) -> tuple[list[Item], list[Item]]:
        """Return the most informative first sizes, and the other first sizes."""
        ranked = [
            (place / self._weights[index], index, place, Item(index, tuple(float(size) for size in at)))
            for index, probe in enumerate(self._probes)
            for place, at in enumerate(dict.fromkeys(map(tuple, probe.first_sizes())))
        ]
        ranked.sort(key=lambda each: each[:3])
        most = [_TELLING_SIZES * math.sqrt(weight) for weight in self._weights]
        telling = [item for _, index, place, item in ranked if place < most[index]]
        return telling, [item for _, index, place, item in ranked if place >= most[index]]

    def record(self, item: Item, point: Point) -> None:
        """Record a measured point. Of two measurements of a size the more certain one counts."""
        known = self._points[item.probe].get(item.at)
        if known is None or point.uncertainty < known.uncertainty:
            self._points[item.probe][item.at] = point
        self._times_measured[item] += 1
        self._settled.add(item)

    def leave_out(self, item: Item) -> None:
        """Record that a size cannot be measured."""
        self._settled.add(item)

    def settled(self, item: Item) -> bool:
        """Whether a size is measured or left out."""
        return item in self._settled

    def series(self, index: int) -> Series:
        """Return the points of a probe, in the order of their sizes."""
        probe = self._probes[index]
        points = tuple(point for _, point in sorted(self._points[index].items()))
        return Series(
            operation=probe.operation, variant=probe.variant, format=probe.format, axes=tuple(probe.axes), points=points
        )

    def predicted_seconds(self, item: Item) -> float | None:
        """Return the expected seconds of one repeat, from the points of its probe."""
        return predicted_seconds(self.series(item.probe), item.at)

    def count(self, index: int) -> int:
        """Return the number of points of a probe."""
        return len(self._points[index])

    @property
    def telling(self) -> list[Item]:
        """The most informative first sizes that are neither measured nor left out, in their order."""
        return [item for item in self._telling if item not in self._settled]

    @property
    def others(self) -> list[Item]:
        """The other first sizes that are neither measured nor left out, in their order."""
        return [item for item in self._others if item not in self._settled]

    @property
    def done(self) -> int:
        """Number of measured points."""
        return sum(map(len, self._points))

    @property
    def uncertain(self) -> list[Item]:
        """The points with wide intervals, the widest first. Each is measured a second time, but not a third."""
        wide = [
            (-point.uncertainty * self._weights[index], index, Item(index, at))
            for index, points in enumerate(self._points)
            for at, point in points.items()
            if point.uncertainty > _UNCERTAIN and self._times_measured[Item(index, at)] == 1
        ]
        return [item for *_, item in sorted(wide, key=lambda each: (*each[:2], each[2].at))]

    def between(self) -> list[Item]:
        """Sizes where interpolation is worst, the worst first, one for each
        probe; empty where it is good everywhere."""
        worst: list[tuple[float, int, Item]] = []
        for index in range(len(self._probes)):
            for excess, point in self._worst_points(index):
                item = self._beside(index, point)
                if item is not None:
                    worst.append((-excess * self._weights[index], index, item))
                    break
        return [item for *_, item in sorted(worst, key=lambda each: each[:2])]

    def _worst_points(self, index: int) -> list[tuple[float, int]]:
        """Return (error, point) of the points whose error exceeds tolerance and their own uncertainty."""
        points = tuple(self._points[index].values())
        if index not in self._excess or self._excess[index][0] != points:
            series = self.series(index)
            errors = self._expected_error(series)
            allowed = [max(self._tolerance, point.uncertainty) for point in series.points]
            bad = [
                (float(error), place)
                for place, (error, limit) in enumerate(zip(errors, allowed, strict=False))
                if error > limit
            ]
            self._excess[index] = (points, sorted(bad, key=lambda each: (-each[0], each[1])))
        return self._excess[index][1]

    def _beside(self, index: int, place: int) -> Item | None:
        sizes = [point.at for point in self.series(index).points]
        for neighbour in _neighbours(sizes, place):
            between = self._probes[index].between(sizes[place], sizes[neighbour])
            if between is None:
                continue
            item = Item(index, tuple(float(size) for size in between))
            if item not in self._settled:
                return item
        return None


def _neighbours(sizes: Sequence[Sizes], place: int) -> Iterator[int]:
    """Yield the neighbours of a point, the farthest first. Those within a factor of 1.2 need no size between them."""
    at = np.log(np.array(sizes))
    squares = np.sum((at[:, None, :] - at[None, :, :]) ** 2, axis=2)
    near = np.log(_NEAREST_RATIO) ** 2
    found = [
        other
        for one, other in ((place, other) for other in range(len(sizes)) if other != place)
        if squares[one, other] > near
        and not any(
            squares[one, third] + squares[other, third] < squares[one, other]
            for third in range(len(sizes))
            if third not in (one, other)
        )
    ]
    return iter(sorted(found, key=lambda other: -squares[place, other]))
