"""Predictions held against a table of measured runs, row by row, none left out."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from shardwright.costmodel.catalog import standard_node
from shardwright.costmodel.errors import SpecError
from shardwright.costmodel.evaluate import estimate_plan
from shardwright.costmodel.spec import Spec

from .metrics import Metric, metric_of_row
from .outcome import Outcome, ValidationRow, interval_bounds, source_name
from .prediction import EstimatePlan, Prediction, fastest
from .row_cluster import StandardNode
from .row_setup import setup_of_row
from .skipped_row import SkippedRowError
from .table import TableRow, read_table
from .validation_summary import ValidationSummary, summarise


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
    for done, outcome in enumerate(predict_rows(table, estimate=estimate, standard_node=standard_node), start=1):
        outcomes.append(outcome)
        if progress:
            progress(done, len(table))
    return Validation(rows=tuple(outcome.result for outcome in outcomes), summary=summarise(outcomes))


def predict_rows(
    table: tuple[TableRow, ...], *, estimate: EstimatePlan, standard_node: StandardNode
) -> Iterator[Outcome]:
    """One outcome for each row, in order, as soon as it is known."""
    for row in table:
        yield _outcome(row, estimate, standard_node)


def _outcome(row: TableRow, estimate: EstimatePlan, standard_node: StandardNode) -> Outcome:
    stated = ValidationRow(
        id=row.id,
        unit=row.metric_unit,
        measured=row.metric_value,
        source=source_name(row.source),
        memory_measured_bytes=1e9 * row.peak_mem_gb if row.peak_mem_gb is not None else None,
    )
    try:
        setup = setup_of_row(row, standard_node)
        prediction = fastest(setup.model, setup.cluster, setup.training, setup.plans, estimate)
    except SkippedRowError as reason:
        return Outcome(row, stated.model_copy(update={"skipped": str(reason)}))
    except SpecError as refusal:
        return Outcome(row, stated.model_copy(update={"skipped": f"not valid for the cost model: {_kind(refusal)}"}))
    with_memory = stated.model_copy(update={"memory_predicted_bytes": prediction.estimate.peak_memory_bytes})
    try:
        if row.metric_value is None:
            raise SkippedRowError("metric_value unknown")
        metric = metric_of_row(row, setup.model, setup.cluster, setup.training)
    except SkippedRowError as reason:
        return Outcome(row, with_memory.model_copy(update={"skipped": str(reason)}), setup, prediction)
    measured_seconds = metric.step_seconds(row.metric_value)
    times = _times(metric, prediction, measured_seconds)
    return Outcome(row, with_memory.model_copy(update=times), setup, prediction)


def _times(metric: Metric, prediction: Prediction, measured_seconds: float) -> dict[str, float | None]:
    predicted_seconds = prediction.estimate.step_seconds
    bounds = interval_bounds(prediction.estimate, 0.80)
    low, high = sorted(map(metric.value, bounds)) if bounds else (None, None)
    return {
        "predicted": metric.value(predicted_seconds),
        "relative_error": predicted_seconds / measured_seconds - 1,
        "low_80": low,
        "high_80": high,
        "measured_seconds": measured_seconds,
        "predicted_seconds": predicted_seconds,
    }


def _kind(refusal: SpecError) -> str:
    """The message without its numbers, so that rows refused alike are counted together."""
    return re.sub(r"\d+", "N", str(refusal))
