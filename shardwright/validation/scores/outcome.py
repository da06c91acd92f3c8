"""The result of validating one row of a table."""

from typing import NamedTuple

from pydantic import Field

from shardwright.costmodel import Prediction
from shardwright.specs import Estimate, Spec
from shardwright.validation.rows import RowSetup, TableRow


class ValidationRow(Spec):
    """One row of the table and its prediction, both in the row's own unit.

    `relative_error` is predicted step time / measured step time - 1: above zero the prediction is too slow, whatever
    the unit. `low_80` and `high_80` bound the prediction with 80% probability. `skipped` says why there is no
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
    skipped: str | None = None
    source: str = Field(default="unknown", exclude=True)
    framework: str = Field(default="unknown", exclude=True)
    measured_seconds: float | None = Field(default=None, exclude=True)
    predicted_seconds: float | None = Field(default=None, exclude=True)


class Outcome(NamedTuple):
    """Everything about one row; `setup` and `prediction` exist if it could be read."""

    row: TableRow
    result: ValidationRow
    setup: RowSetup | None = None
    prediction: Prediction | None = None

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What was assumed to read the row or to choose its plan."""
        read = self.setup.assumptions if self.setup else ()
        return read + (self.prediction.assumptions if self.prediction else ())

    @property
    def measured_seconds(self) -> float | None:
        """Measured step time; None without one, or without a prediction to compare it with."""
        return self.result.measured_seconds


def interval_bounds(estimate: Estimate, level: float) -> tuple[float, float] | None:
    """Low and high step seconds of the estimate's interval of `level`; None if it has none."""
    for interval in estimate.step_seconds_intervals:
        if abs(interval.level - level) < 1e-9:
            return interval.low, interval.high
    return None
