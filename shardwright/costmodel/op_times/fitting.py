"""Measured points as a smooth function: a physical curve, and an interpolation of its residuals around the points."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from shardwright.base import Array, FloatArray, Number
from shardwright.specs import Curve, Point, Series

from .curves import Form, form_of

_LEAST_POINTS_TO_LEAVE_OUT = 5
_LEAST_POINTS_TO_EXPECT = 3
_FOLDS = 5
# Settings of the interpolation that are tried; the one that predicts left-out points best is kept. They are the reach
# of a residual, as the logarithm of a ratio of sizes, and the share of noise in the variance of residuals.
_REACHES = (0.5, 1.0, 2.0, 4.0)
_NOISES = (0.01, 0.1, 1.0)
_USUAL_REACH, _USUAL_NOISE = 1.0, 0.1
# Penalty of a parameter at the edge of its range, in the same unit as relative errors of the points.
_PRIOR = 0.03


@dataclass(frozen=True)
class Interpolation:
    """log(measured / base) around points, falling to 0 far from all of them: Gaussian kernels, no polynomial.

    This is the mean of a Gaussian process (Rasmussen and Williams 2006, equation 2.25). `sizes` (N, D), `residuals`
    (N,).
    """

    sizes: FloatArray
    residuals: FloatArray
    reach: float
    noise: float
    weights: tuple[float, ...] = (1.0,)

    @cached_property
    def _kernels(self) -> object:
        from scipy.interpolate import RBFInterpolator  # here: only plans with a profile need it

        return RBFInterpolator(
            np.log(self.sizes) * self.weights,
            self.residuals,
            kernel="gaussian",
            epsilon=1 / self.reach,
            smoothing=self.noise,
            degree=-1,
        )

    def factor(self, *sizes: Number) -> Array:
        """Return measured / base at any sizes, which broadcast."""
        arrays = np.broadcast_arrays(*(np.asarray(size, dtype=float) for size in sizes))
        flat = np.stack([array.ravel() for array in arrays], axis=1)
        distinct, place = np.unique(flat, axis=0, return_inverse=True)
        found = np.exp(self._kernels(np.log(distinct) * self.weights))  # type: ignore[operator]
        return np.asarray(found[place.reshape(-1)].reshape(arrays[0].shape))


@dataclass(frozen=True)
class FittedSeries:
    """Seconds of an operation at any sizes, from the points of one series."""

    form: Form
    parameters: dict[str, float]
    around: Interpolation

    def seconds(self, *sizes: Number) -> Array:
        """Return the seconds at the sizes of the form, which broadcast."""
        return np.asarray(self.form.seconds(self.parameters, *sizes) * self.around.factor(*sizes))


def fitted(series: Series) -> FittedSeries | None:
    """Return the series as a function, or None where no physical curve is known over its axes or it has no points."""
    form = form_of(series.axes)
    if form is None or not series.points:
        return None
    curve = series.curve
    if curve is None or not _is_of(curve, form):
        curve = fit_curve(series)
        assert curve is not None  # there are a form and points
    parameters = {name: curve.parameters[name] for name in form.starts}
    sizes, seconds = _table(form, series.points)
    return FittedSeries(
        form,
        parameters,
        _around(form, parameters, sizes, seconds, curve.parameters["reach"], curve.parameters["noise"]),
    )


def _is_of(curve: Curve, form: Form) -> bool:
    """Whether the curve has the parameters of this form. A file keeps its old
    fit when a later version changes the form."""
    return curve.form == form.name and {*form.starts, "reach", "noise"} <= curve.parameters.keys()


def fit_curve(series: Series) -> Curve | None:
    """Fit the physical curve of the series' axes and the interpolation of its residuals.

    Least squares of log(fitted / measured) with a soft loss, so that a disturbed point does not bend the curve. The
    reach and the noise of the interpolation are those that predict left-out fifths of the points best. The result is
    None without a known curve or points.
    """
    form = form_of(series.axes)
    if form is None or not series.points:
        return None
    sizes, seconds = _table(form, series.points)
    parameters = _least_squares(form, sizes, seconds)
    reach, noise, left_out = _best_interpolation(form, sizes, seconds)
    around = _around(form, parameters, sizes, seconds, reach, noise)
    columns = tuple(sizes.T)
    misses = np.abs(form.seconds(parameters, *columns) * around.factor(*columns) / seconds - 1)
    return Curve(
        form=form.name,
        parameters={**parameters, "reach": reach, "noise": noise},
        residual_median=float(np.median(misses)),
        residual_p90=float(np.quantile(misses, 0.9)),
        left_out_median=left_out,
    )


def expected_errors(series: Series) -> list[float]:
    """Return |predicted / measured - 1| of each point, interpolated from all others; empty below three points.

    All points share one curve, one reach and one noise. The errors are coefficient / diagonal of the inverse (Rasmussen
    and Williams 2006, equation 5.12). That is fast enough to choose the next point by.
    """
    form = form_of(series.axes)
    if form is None or len(series.points) < _LEAST_POINTS_TO_EXPECT:
        return []
    sizes, seconds = _table(form, series.points)
    residuals = np.log(seconds / form.seconds(_least_squares(form, sizes, seconds), *sizes.T))
    places = np.log(sizes) * form.weights / _USUAL_REACH
    distances = ((places[:, None, :] - places[None, :, :]) ** 2).sum(axis=-1)
    inverse = np.linalg.inv(np.exp(-distances) + _USUAL_NOISE * np.eye(len(seconds)))
    return [float(error) for error in np.abs(np.expm1(-(inverse @ residuals) / np.diag(inverse)))]


def left_out_errors(series: Series) -> FloatArray | None:
    """Return predicted / measured - 1 of every point, predicted by a fit without its fifth of the points.

    The result is None with fewer than five points, or over axes without a known curve.
    """
    form = form_of(series.axes)
    if form is None or len(series.points) < _LEAST_POINTS_TO_LEAVE_OUT:
        return None
    sizes, seconds = _table(form, series.points)
    reach, noise, _ = _best_interpolation(form, sizes, seconds)
    return np.expm1(_left_out(form, sizes, seconds, _fold_parameters(form, sizes, seconds), reach, noise))


def _table(form: Form, points: tuple[Point, ...]) -> tuple[FloatArray, FloatArray]:
    """Sizes (N, D) and seconds (N,) of the points."""
    columns = form.sizes(*np.array([point.at for point in points], dtype=float).T)
    return np.stack([np.asarray(column, dtype=float) for column in columns], axis=1), np.array(
        [point.seconds for point in points]
    )


def _around(
    form: Form, parameters: dict[str, float], sizes: FloatArray, seconds: FloatArray, reach: float, noise: float
) -> Interpolation:
    residuals = np.log(seconds / form.seconds(parameters, *sizes.T))
    return Interpolation(sizes, residuals, reach, noise, form.weights)


def _least_squares(form: Form, sizes: FloatArray, seconds: FloatArray) -> dict[str, float]:
    from scipy.optimize import least_squares

    names, columns = list(form.starts), tuple(sizes.T)
    middle = np.log([form.starts[name][0] for name in names])
    room = np.log([form.starts[name][1] for name in names])

    def misses(logarithms: FloatArray) -> FloatArray:
        parameters = dict(zip(names, np.exp(logarithms), strict=True))
        relative = np.log(form.seconds(parameters, *columns) / seconds)
        # a parameter that no point depends on stays at its first guess
        return np.concatenate([relative, _PRIOR * (logarithms - middle) / room])

    found = least_squares(misses, middle, bounds=(middle - room, middle + room), loss="soft_l1", f_scale=0.1)
    return dict(zip(names, (float(value) for value in np.exp(found.x)), strict=True))


def _folds(points: int) -> FloatArray:
    """Return the fifth with which each point is left out: spread evenly, the same at every call."""
    return np.asarray(np.random.default_rng(0).permutation(points) % _FOLDS)


def _fold_parameters(form: Form, sizes: FloatArray, seconds: FloatArray) -> list[dict[str, float]]:
    folds = _folds(len(seconds))
    return [_least_squares(form, sizes[folds != fold], seconds[folds != fold]) for fold in range(_FOLDS)]


def _left_out(
    form: Form, sizes: FloatArray, seconds: FloatArray, parameters: list[dict[str, float]], reach: float, noise: float
) -> FloatArray:
    """Return log(predicted / measured) of every point by the fit without its fifth."""
    folds, errors = _folds(len(seconds)), np.zeros(len(seconds))
    for fold, found in enumerate(parameters):
        out, kept = folds == fold, folds != fold
        around = _around(form, found, sizes[kept], seconds[kept], reach, noise)
        columns = tuple(sizes[out].T)
        errors[out] = np.log(form.seconds(found, *columns) * around.factor(*columns) / seconds[out])
    return errors


def _best_interpolation(form: Form, sizes: FloatArray, seconds: FloatArray) -> tuple[float, float, float | None]:
    """Return reach, noise, and the median |error| of left-out points with them."""
    if len(seconds) < _LEAST_POINTS_TO_LEAVE_OUT:
        return _USUAL_REACH, _USUAL_NOISE, None
    parameters = _fold_parameters(form, sizes, seconds)
    tried = {
        (reach, noise): np.abs(np.expm1(_left_out(form, sizes, seconds, parameters, reach, noise)))
        for reach in _REACHES
        for noise in _NOISES
    }
    best = min(tried, key=lambda pair: float(tried[pair].mean()))
    return *best, float(np.median(tried[best]))
