"""How well each point of a series is foretold by the others: where it is not, the next point is worth most."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardwright.costmodel.profile import Series

from .probe import Sizes

Array = NDArray[Any]
_RIDGE = 1e-3
_NEAR = 0.1


def left_out_errors(series: Series) -> list[float]:
    """|predicted / measured - 1| of each point, predicted by the others; empty with fewer than three points."""
    if len(series.points) < 3:
        return []
    at = np.log([point.at for point in series.points])
    seconds = np.log([point.seconds for point in series.points])
    errors = []
    for index in range(len(seconds)):
        others = np.arange(len(seconds)) != index
        predicted = _local_plane(at[others], seconds[others], at[index])
        errors.append(float(abs(np.expm1(predicted - seconds[index]))))
    return errors


def predicted_seconds(series: Series, at: Sizes) -> float | None:
    """What `at` will take, by the points there are; None while there are none."""
    if not series.points:
        return None
    known = np.log([point.at for point in series.points])
    seconds = np.log([point.seconds for point in series.points])
    return float(np.exp(_local_plane(known, seconds, np.log(at))))


def _local_plane(at: Array, log_seconds: Array, where: Array) -> float:
    """A plane through `log_seconds` over logarithmic sizes, (points, axes), the nearer points weighing more; its value at
    `where`, (axes,).

    A power law is such a plane, so what it misses are the bends. Weights fall with the square of the distance; a ridge of
    a thousandth of the weights holds the slope along axes that the points do not span.
    """
    away = at - where
    weights = 1 / (np.sum(away**2, axis=1) + _NEAR**2)
    weights /= weights.sum()
    mean_at, mean_seconds = weights @ away, weights @ log_seconds
    spread = away - mean_at
    normal = spread.T @ (weights[:, None] * spread) + _RIDGE * np.eye(at.shape[1])
    slope = np.linalg.solve(normal, spread.T @ (weights * (log_seconds - mean_seconds)))
    return float(mean_seconds - slope @ mean_at)
