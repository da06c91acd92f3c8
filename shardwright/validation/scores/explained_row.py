"""One row's prediction in detail: its seconds and bytes by part, and the assumptions."""

from collections.abc import Iterable

from shardwright.reports.plan import choice_words
from shardwright.specs import Plan, Spec, TrainingSpec

from .outcome import TimedRun


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


def worst_rows(timed: Iterable[TimedRun], count: int = 10) -> tuple[ExplainedRow, ...]:
    """The rows with the largest errors of time, the largest first."""
    largest = sorted(timed, key=lambda one: -abs(one.relative_error))[:count]
    return tuple(explain_row(one) for one in largest)


def explain_row(timed: TimedRun) -> ExplainedRow:
    """The row in detail."""
    run, estimate = timed.run, timed.prediction.estimate
    measured, predicted = timed.measured.seconds, timed.predicted_seconds
    fullest = max(estimate.memory, key=lambda part: part.total)
    parts = sorted(((name, float(seconds)) for name, seconds in estimate.step if seconds), key=lambda part: -part[1])
    return ExplainedRow(
        id=run.id,
        source=run.source,
        framework=run.framework,
        model=f"{run.model.name} ({run.model.parameter_count / 1e9:.3g}B)",
        devices=f"{run.cluster.devices} x {run.device}",
        plan=_plan_in_words(timed.prediction.plan, run.training),
        measured_seconds=measured,
        predicted_seconds=predicted,
        relative_error=timed.relative_error,
        measured_mfu=estimate.mfu * estimate.step_seconds / measured,
        step=tuple(_step_part(name, seconds, predicted, measured) for name, seconds in parts),
        memory=tuple(sorted(((name, float(size)) for name, size in fullest if size), key=lambda part: -part[1])),
        memory_predicted_bytes=estimate.peak_memory_bytes,
        memory_measured_bytes=run.memory_bytes,
        too_large=timed.prediction.too_large,
        assumptions=timed.assumptions,
        notes=run.notes,
    )


def _step_part(name: str, seconds: float, predicted: float, measured: float) -> StepPart:
    factor = (measured - predicted + seconds) / seconds
    return StepPart(
        name=name.replace("_", " "),
        seconds=seconds,
        share=seconds / predicted,
        factor_needed=factor if factor > 0 else None,
    )


def _plan_in_words(plan: Plan, training: TrainingSpec) -> str:
    job = (
        f"{plan.microbatches} microbatches",
        f"{training.seq_len} tokens",
        f"{training.attention} attention",
        training.precision.compute,
        f"stack {training.stack}",
    )
    return "; ".join((choice_words(plan), *job))
