"""Compares predictions with a table of measured runs, row by row, without leaving any out."""

from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from shardwright.base import SpecError
from shardwright.catalog import standard_node
from shardwright.costmodel import EstimatePlan, Prediction, estimate_plan, fits_probability
from shardwright.specs import Spec
from shardwright.validation.rows import (
    MeasuredRun,
    NoStep,
    SkippedRun,
    StandardNode,
    measured_run,
    skip_reason,
)
from shardwright.validation.table import TableRow, read_table

from .outcome import Outcome, PredictedReading, TimedRun, ValidationRow, interval_bounds
from .prediction import ReadRun, predict_run
from .summary import ValidationSummary, summarise


class Validation(Spec):
    """The result for a whole table, in the table's order."""

    rows: tuple[ValidationRow, ...]
    summary: ValidationSummary

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dumps`; it holds no NaN and no infinity."""
        return self.model_dump(mode="json")


def validate_table(
    path: Path,
    *,
    estimate: EstimatePlan = estimate_plan,
    standard_node: StandardNode = standard_node,
    progress: Callable[[int, int], None] | None = None,
) -> Validation:
    """Predict every row of the table at `path` and compare.

    `progress` is called with the rows done and their number, before the first and after each.

    Raises:
        SpecError: the table cannot be read.
    """
    table = read_table(path)
    if progress:
        progress(0, len(table))
    outcomes = []
    predicted = predict_rows(table, estimate=estimate, standard_node=standard_node)
    for done, outcome in enumerate(predicted, start=1):
        outcomes.append(outcome)
        if progress:
            progress(done, len(table))
    return Validation(rows=tuple(outcome.result for outcome in outcomes), summary=summarise(outcomes))


def predict_rows(
    table: tuple[TableRow, ...],
    *,
    estimate: EstimatePlan = estimate_plan,
    standard_node: StandardNode = standard_node,
) -> Iterator[Outcome]:
    """Yield one outcome for each row, in order, as soon as it is known. Rows with the same input are predicted once."""
    known: dict[Hashable, ReadRun] = {}

    def predict(run: MeasuredRun) -> ReadRun:
        key = (run.model, run.cluster.model_dump_json(), run.training, run.readings)
        if key not in known:
            known[key] = predict_run(run, estimate)
        return known[key]

    for row in table:
        yield _outcome(measured_run(row, standard_node), predict)


def _outcome(run: MeasuredRun | SkippedRun, predict: Callable[[MeasuredRun], ReadRun]) -> Outcome:
    stated = ValidationRow(
        id=run.id,
        unit=run.unit,
        measured=run.value,
        source=run.source,
        framework=run.framework,
        memory_measured_bytes=run.memory_bytes,
    )
    if isinstance(run, SkippedRun):
        return Outcome(run, stated.model_copy(update={"skipped": run.reason}))
    try:
        prediction, others = predict(run)
    except (SpecError, ValidationError) as refusal:
        return Outcome(run, stated.model_copy(update={"skipped": skip_reason(refusal)}))
    capacity = run.cluster.node.device.memory_bytes
    found: dict[str, object] = {
        "memory_predicted_bytes": _predicted_memory_bytes(run, prediction),
        "fits_probability": fits_probability(
            max(part.within(capacity) for part in prediction.estimate.memory), capacity
        ),
    }
    if isinstance(run.step, NoStep):
        found["skipped"] = run.step.reason
    else:
        found |= _times(TimedRun(run, prediction, run.step))
        value = run.step.metric.value
        found["other_readings"] = tuple(
            PredictedReading(choice=other.choice, predicted=value(other.step_seconds)) for other in others
        )
    return Outcome(run, stated.model_copy(update=found), prediction)


def _predicted_memory_bytes(run: MeasuredRun, prediction: Prediction) -> float | None:
    if run.memory_reading is None:
        return None
    return run.memory_reading.of(prediction.estimate, prediction.plan, run.cluster.node)


def _times(timed: TimedRun) -> dict[str, float | None]:
    metric = timed.measured.metric
    bounds = interval_bounds(timed.prediction.estimate, 0.80)
    low, high = sorted(map(metric.value, bounds)) if bounds else (None, None)
    return {
        "predicted": metric.value(timed.predicted_seconds),
        "relative_error": timed.relative_error,
        "low_80": low,
        "high_80": high,
        "measured_seconds": timed.measured.seconds,
        "predicted_seconds": timed.predicted_seconds,
    }
