"""The result of validating one row of a table."""

from typing import NamedTuple

from pydantic import Field

from shardwright.costmodel import Prediction
from shardwright.specs import Estimate, Spec
from shardwright.validation.rows import MeasuredRun, MeasuredStep, SkippedRun


class PredictedReading(Spec):
    """What else a row can mean: an open choice with another value, and the prediction then, in the row's unit."""

    choice: str
    predicted: float


class ValidationRow(Spec):
    """One row of the table and its prediction, both in the row's own unit.

    `relative_error` is predicted step time / measured step time - 1: above zero the prediction is too slow, whatever
    the unit. `low_80` and `high_80` bound the prediction with 80% probability; they hold those of `other_readings`. `fits_probability`: that the
    predicted peak leaves room in the device's memory, by the errors of predicted peaks. `skipped` says why there is no
    prediction of time; a row may still have one of memory. `source`, `framework`, `measured_seconds` and
    `predicted_seconds` are for figures, and stay out of the file.
    """

    id: str
    unit: str | None
    measured: float | None
    predicted: float | None = None
    relative_error: float | None = None
    low_80: float | None = None
    high_80: float | None = None
    memory_measured_bytes: float | None = None
    memory_predicted_bytes: float | None = None
    fits_probability: float | None = None
    other_readings: tuple[PredictedReading, ...] = ()
    skipped: str | None = None
    source: str = Field(default="unknown", exclude=True)
    framework: str = Field(default="unknown", exclude=True)
    measured_seconds: float | None = Field(default=None, exclude=True)
    predicted_seconds: float | None = Field(default=None, exclude=True)


class TimedRun(NamedTuple):
    """A run whose step time is both measured and predicted."""

    run: MeasuredRun
    prediction: Prediction
    measured: MeasuredStep

    @property
    def predicted_seconds(self) -> float:
        return self.prediction.estimate.step_seconds

    @property
    def relative_error(self) -> float:
        return self.predicted_seconds / self.measured.seconds - 1

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What was assumed to read the row or to choose its plan."""
        return self.run.assumptions + self.prediction.assumptions


class Outcome(NamedTuple):
    """Everything about one row. `prediction` exists if the row is a run that the cost model accepts."""

    run: MeasuredRun | SkippedRun
    result: ValidationRow
    prediction: Prediction | None = None

    @property
    def timed(self) -> TimedRun | None:
        """The run with both its times; None if either is missing."""
        if self.prediction is None or isinstance(self.run, SkippedRun) or not isinstance(self.run.step, MeasuredStep):
            return None
        return TimedRun(self.run, self.prediction, self.run.step)


def interval_bounds(estimate: Estimate, level: float) -> tuple[float, float] | None:
    """Low and high step seconds of the estimate's interval of `level`; None if it has none."""
    for interval in estimate.step_seconds_intervals:
        if abs(interval.level - level) < 1e-9:
            return interval.low, interval.high
    return None
