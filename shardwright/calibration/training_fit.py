"""Fits the cost model's constants to measured training runs, robustly and with what is known of them as priors."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from shardwright.base import FloatArray
from shardwright.costmodel import step_seconds_by_variant
from shardwright.costmodel.op_times import CALIBRATED, CatalogTimes, Constants
from shardwright.specs import Plan
from shardwright.specs.model import FeedForward
from shardwright.validation.rows import MeasuredRun
from shardwright.validation.scores import Outcome, TimedRun

from .known_constants import KNOWN

_STEP = 0.02  # of a constant's logarithm, for the derivatives
_LARGEST_MOVE = 0.4  # of a constant's logarithm, in one iteration
_SCALE = 0.06  # of a log error, beyond which a row counts less and less
_ITERATIONS = 5
_REWEIGHTINGS = 30
_NORMAL_80 = 1.2816  # standard deviations on each side of 80% of a normal distribution


class Run(NamedTuple):
    """One measured run, the plan that stands for it, and its measured step seconds.

    `fitted`: the fit uses it, because it is of the core, dense, all in the compute format, and without context
    parallelism. Experts, fp8 and context parallelism have no fitted constant, so those runs only test.
    """

    measured: MeasuredRun
    plan: Plan
    seconds: float
    fitted: bool


def runs_of(outcomes: Sequence[Outcome]) -> list[Run]:
    """The rows that have a predicted and a measured time."""
    timed = [one for outcome in outcomes if (one := outcome.timed) is not None]
    return [_run(one) for one in timed]


def document(run: Run) -> str:
    """The document of a run. Tables of one document share hardware and software."""
    return document_of(run.measured.source)


def document_of(source: str) -> str:
    """The repository or paper that a source belongs to."""
    first, _, rest = source.partition(" ")
    return f"{first} {rest.partition(' ')[0]}" if first == "arXiv" else first


def _run(timed: TimedRun) -> Run:
    run, plan = timed.run, timed.prediction.plan
    return Run(run, plan, timed.measured.seconds, fitted=run.core and _is_plain(run, plan))


def _is_plain(run: MeasuredRun, plan: Plan) -> bool:
    dense = all(isinstance(block.ffn, FeedForward) for block in run.model.layer_classes)
    return dense and run.training.precision.linear is None and plan.mesh.cp == 1


@dataclass(frozen=True)
class TrainingFit:
    """Logarithms of the constants in `known`, in its order."""

    logs: FloatArray
    known: tuple[str, ...] = tuple(KNOWN)

    @property
    def values(self) -> dict[str, float]:
        return dict(zip(self.known, np.exp(self.logs).tolist(), strict=True))

    def errors(self, runs: Sequence[Run]) -> FloatArray:
        """Predicted / measured seconds - 1, shape (R,)."""
        predicted = np.exp([_log_seconds(run, self.logs[None])[0] for run in runs])
        return np.asarray(predicted / [run.seconds for run in runs] - 1)


def fit_training(runs: Sequence[Run]) -> TrainingFit:
    """Least squares on log seconds by Gauss and Newton, with soft-L1 weights and the priors of `KNOWN`.

    A document counts with the root of its rows, so that one large benchmark does not dominate.
    """
    prior = np.log([known.value for known in KNOWN.values()])
    spread = np.array([known.spread for known in KNOWN.values()])
    measured = np.log([run.seconds for run in runs])
    counts = Counter(map(document, runs))
    weights = np.array([counts[document(run)] ** -0.5 for run in runs])
    weights /= weights.mean()
    logs = prior.copy()
    for _ in range(_ITERATIONS):
        at, slopes = _derivatives(runs, logs)
        logs = logs + _move(at - measured, slopes, (logs - prior) / spread, spread, weights)
    return TrainingFit(logs)


def left_out_fits(runs: Sequence[Run], key: Callable[[Run], str]) -> dict[str, TrainingFit]:
    """For each group of `key`, the fit to the fitted runs of all other groups."""
    fitted = [run for run in runs if run.fitted]
    whole, of_groups = fit_training(fitted), {key(run) for run in fitted}
    return {
        group: fit_training([run for run in fitted if key(run) != group]) if group in of_groups else whole
        for group in sorted({key(run) for run in runs})
    }


def left_out_errors(runs: Sequence[Run], fits: Mapping[str, TrainingFit], key: Callable[[Run], str]) -> FloatArray:
    """Errors of shape (R,), each run predicted with its own group left out of the fit."""
    return np.concatenate([fits[key(run)].errors([run]) for run in runs])


def _derivatives(runs: Sequence[Run], logs: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Log seconds (R,) and their derivatives by each constant's logarithm (R, K), with one evaluation for each run."""
    variants = np.vstack([logs, logs + _STEP * np.eye(len(logs))])
    seconds = np.array([_log_seconds(run, variants) for run in runs])
    return seconds[:, 0], (seconds[:, 1:] - seconds[:, :1]) / _STEP


def _move(
    errors: FloatArray, slopes: FloatArray, from_prior: FloatArray, spread: FloatArray, weights: FloatArray
) -> FloatArray:
    """The step that reduces sum w rho(e + J d) + sum ((x + d - prior) / spread)^2, rho the soft L1 of `_SCALE`."""
    move: FloatArray = np.zeros(slopes.shape[1])
    for _ in range(_REWEIGHTINGS):
        each = weights / np.sqrt(1 + ((errors + slopes @ move) / _SCALE) ** 2) / _SCALE**2
        normal = slopes.T @ (each[:, None] * slopes) + np.diag(spread**-2)
        whole = -np.linalg.solve(normal, slopes.T @ (each * errors) + from_prior / spread)
        move = np.clip(whole, -_LARGEST_MOVE, _LARGEST_MOVE).astype(np.float64)
    return move


def _log_seconds(run: Run, logs: FloatArray) -> FloatArray:
    """(V,) logarithms of predicted step seconds for V vectors (V, K) of constants."""
    measured, cluster = run.measured, run.measured.cluster
    constants: Constants = replace(CALIBRATED, **dict(zip(KNOWN, np.exp(logs).T, strict=True)))
    times = CatalogTimes(cluster.node, measured.training, constants, cluster.oversubscription)
    seconds = step_seconds_by_variant(measured.model, measured.training, run.plan, times, len(logs))
    return np.asarray(np.log(seconds))


def intervals(whole: TrainingFit, left_out: Mapping[str, TrainingFit]) -> dict[str, tuple[float, float]]:
    """80% interval of each constant by the jackknife over groups (Efron 1982): how far it moves when each is left out.

    A group without fitted runs does not move it: leaving it out gives `whole`.
    """
    logs = np.array([fit.logs for fit in left_out.values() if not np.array_equal(fit.logs, whole.logs)])
    spread = np.sqrt((len(logs) - 1) / len(logs) * ((logs - logs.mean(axis=0)) ** 2).sum(axis=0))
    low, high = np.exp(whole.logs - _NORMAL_80 * spread), np.exp(whole.logs + _NORMAL_80 * spread)
    return dict(zip(whole.known, zip(low.tolist(), high.tolist(), strict=True), strict=True))
