"""One row's prediction in detail: its seconds and bytes by part, and the assumptions."""

from collections.abc import Sequence

from shardwright.reports.plan import choice_words
from shardwright.specs import Spec
from shardwright.validation.rows import framework_family

from .outcome import Outcome


class StepPart(Spec):
    """One part of a step. `factor_needed`: the factor on this part alone that would make the step as measured.

    It is None if no such factor above zero exists.
    """

    name: str
    seconds: float
    share: float
    factor_needed: float | None


class ExplainedRow(Spec):
    """A predicted row with the parts of its step and of the fullest rank's memory, the largest first.

    `measured_mfu`: the model FLOPs of the step over the measured time and the peak of all devices; near 1 or above, the
    row or its reading is wrong. `too_large` says by how much the plan exceeds the memory; None if it fits.
    """

    id: str
    source: str
    framework: str
    model: str
    devices: str
    plan: str
    measured_seconds: float
    predicted_seconds: float
    relative_error: float
    measured_mfu: float
    step: tuple[StepPart, ...]
    memory: tuple[tuple[str, float], ...]
    memory_predicted_bytes: float
    memory_measured_bytes: float | None
    too_large: str | None
    assumptions: tuple[str, ...]
    notes: str | None


def worst_rows(outcomes: Sequence[Outcome], count: int = 10) -> tuple[ExplainedRow, ...]:
    """The rows with the largest errors of time, the largest first."""
    explained = [found for outcome in outcomes if (found := explain_row(outcome)) is not None]
    return tuple(sorted(explained, key=lambda row: -abs(row.relative_error))[:count])


def explain_row(outcome: Outcome) -> ExplainedRow | None:
    """The row in detail; None if it has no predicted time."""
    row, result, setup, prediction = outcome
    if setup is None or prediction is None or result.relative_error is None:
        return None
    assert result.measured_seconds is not None
    assert result.predicted_seconds is not None
    estimate, measured = prediction.estimate, result.measured_seconds
    fullest = max(estimate.memory, key=lambda part: part.total)
    parts = sorted(((name, float(seconds)) for name, seconds in estimate.step if seconds), key=lambda part: -part[1])
    return ExplainedRow(
        id=row.id,
        source=result.source,
        framework=framework_family(row),
        model=f"{setup.model.name} ({setup.model.parameter_count / 1e9:.3g}B)",
        devices=f"{setup.cluster.devices} x {row.gpu}",
        plan=_plan_in_words(outcome),
        measured_seconds=measured,
        predicted_seconds=result.predicted_seconds,
        relative_error=result.relative_error,
        measured_mfu=estimate.mfu * estimate.step_seconds / measured,
        step=tuple(_step_part(name, seconds, result.predicted_seconds, measured) for name, seconds in parts),
        memory=tuple(sorted(((name, float(size)) for name, size in fullest if size), key=lambda part: -part[1])),
        memory_predicted_bytes=estimate.peak_memory_bytes,
        memory_measured_bytes=result.memory_measured_bytes,
        too_large=prediction.too_large,
        assumptions=outcome.assumptions,
        notes=row.notes,
    )


def _step_part(name: str, seconds: float, predicted: float, measured: float) -> StepPart:
    factor = (measured - predicted + seconds) / seconds
    return StepPart(
        name=name.replace("_", " "),
        seconds=seconds,
        share=seconds / predicted,
        factor_needed=factor if factor > 0 else None,
    )


def _plan_in_words(outcome: Outcome) -> str:
    assert outcome.prediction is not None
    assert outcome.setup is not None
    plan, training = outcome.prediction.plan, outcome.setup.training
    job = (
        f"{plan.microbatches} microbatches",
        f"{training.seq_len} tokens",
        f"{training.attention} attention",
        training.precision.compute,
        f"stack {training.stack}",
    )
    return "; ".join((choice_words(plan), *job))
