"""The error with which each point of a series is predicted by the others. Next points are placed where it is large.

Logarithms of seconds over logarithms of sizes are interpolated by radial functions r^3 and a plane. A power law is a
plane and needs few points; bends need more.
"""

import math

import numpy as np

from shardwright.base import Array
from shardwright.profiler.timing import Sizes
from shardwright.specs import Series

_SMOOTHING = 1e-3
_FLATTENING = 1e-6  # keeps the plane flat along axes that the points do not span


def left_out_errors(series: Series) -> list[float]:
    """Return |predicted / measured - 1| of each point, predicted by the others; empty with fewer than three points.

    All errors are computed at once, as coefficient / diagonal of the inverse. Source: Rippa, An algorithm for selecting
    a good value for the parameter c in radial basis function interpolation, 1999, equation 17.
    """
    if len(series.points) < 3:
        return []
    at, seconds = _logarithms(series)
    inverse = np.linalg.inv(_matrix(at))
    coefficients = inverse[:, : len(seconds)] @ (seconds - seconds.mean())
    misses = coefficients[: len(seconds)] / np.diag(inverse)[: len(seconds)]
    return [float(error) for error in np.abs(np.expm1(-misses))]


def predicted_seconds(series: Series, at: Sizes) -> float | None:
    """Return the expected seconds of `at`, from the existing points; None without points.

    From a single point, seconds grow with the product of the sizes. That is rather too long than too short.
    """
    if not series.points:
        return None
    if len(series.points) == 1:
        (point,) = series.points
        return point.seconds * max(1.0, math.prod(at) / math.prod(point.at))
    known, seconds = _logarithms(series)
    count = len(seconds)
    right = np.concatenate([seconds - seconds.mean(), np.zeros(known.shape[1] + 1)])
    coefficients = np.linalg.solve(_matrix(known), right)
    where = np.log(at)
    around = np.linalg.norm(known - where, axis=1) ** 3
    plane = np.concatenate([[1.0], where - known.mean(axis=0)])
    return float(np.exp(seconds.mean() + around @ coefficients[:count] + plane @ coefficients[count:]))


def _logarithms(series: Series) -> tuple[Array, Array]:
    """Return sizes (points, axes) and seconds (points,) as logarithms."""
    return np.log([point.at for point in series.points]), np.log([point.seconds for point in series.points])


def _matrix(at: Array) -> Array:
    """Return the matrix of the interpolation, (points + 1 + axes) square."""
    count, axes = at.shape
    distances = np.linalg.norm(at[:, None, :] - at[None, :, :], axis=2)
    plane = np.concatenate([np.ones((count, 1)), at - at.mean(axis=0)], axis=1)
    kernel = distances**3 + _SMOOTHING * np.eye(count)
    return np.block([[kernel, plane], [plane.T, -_FLATTENING * np.eye(axes + 1)]])
