"""Compares predictions with a table of measured runs, row by row, without leaving any out."""

import re
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from shardwright.base import SpecError
from shardwright.catalog import standard_node
from shardwright.costmodel import EstimatePlan, Prediction, estimate_plan
from shardwright.specs import Spec
from shardwright.validation.rows import (
    RowSetup,
    SkippedRowError,
    StandardNode,
    TableRow,
    framework_family,
    read_table,
    reading_of_row,
    setup_of_row,
    source_name,
)

from .metrics import Metric, metric_of_row
from .outcome import Outcome, ValidationRow, interval_bounds
from .prediction import ChoosePlan, planners_choice, predict_setup
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
    choose: ChoosePlan = planners_choice,
    progress: Callable[[int, int], None] | None = None,
) -> Validation:
    """Predict every row of the table at `path` and compare; `choose` plans what a row leaves unknown.

    `progress` is called with the rows done and their number, before the first and after each.

    Raises:
        SpecError: the table cannot be read.
    """
    table = read_table(path)
    if progress:
        progress(0, len(table))
    outcomes = []
    predicted = predict_rows(table, estimate=estimate, standard_node=standard_node, choose=choose)
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
    choose: ChoosePlan = planners_choice,
) -> Iterator[Outcome]:
    """Yield one outcome for each row, in order, as soon as it is known. Rows with the same setup are predicted once."""
    known: dict[Hashable, Prediction] = {}

    def predict(setup: RowSetup) -> Prediction:
        key = (setup.model, setup.cluster.model_dump_json(), setup.training, setup.plans, setup.fixed)
        if key not in known:
            known[key] = predict_setup(setup, estimate, choose)
        return known[key]

    for row in table:
        yield _outcome(row, standard_node, predict)


def _outcome(row: TableRow, standard_node: StandardNode, predict: Callable[[RowSetup], Prediction]) -> Outcome:
    stated = ValidationRow(
        id=row.id,
        unit=row.metric_unit,
        measured=row.metric_value,
        source=source_name(row.source),
        framework=framework_family(row),
        memory_measured_bytes=1e9 * row.peak_mem_gb if row.peak_mem_gb is not None else None,
    )
    try:
        setup = setup_of_row(row, standard_node)
        prediction = predict(setup)
    except SkippedRowError as reason:
        return Outcome(row, stated.model_copy(update={"skipped": str(reason)}))
    except SpecError as refusal:
        return Outcome(row, stated.model_copy(update={"skipped": f"not valid for the cost model: {_kind(refusal)}"}))
    except ValidationError as invalid:
        return Outcome(row, stated.model_copy(update={"skipped": f"not valid: {_first_fault(invalid)}"}))
    devices_per_node = setup.cluster.node.devices_per_node
    reading = reading_of_row(row)
    memory_bytes = reading.of(prediction.estimate, prediction.plan, devices_per_node) if reading else None
    with_memory = stated.model_copy(update={"memory_predicted_bytes": memory_bytes})
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


def _first_fault(invalid: ValidationError) -> str:
    """The field, its noun, and what is wrong with it."""
    first = invalid.errors()[0]
    where = ".".join(str(part) for part in (invalid.title, *first["loc"]) if not isinstance(part, int))
    return f"{where}: {_kind(first['msg'].removeprefix('Value error, '))}"


def _kind(refusal: SpecError | str) -> str:
    """The message without its numbers, so that rows refused for the same reason are counted together."""
    return re.sub(r"\d+", "N", str(refusal))
