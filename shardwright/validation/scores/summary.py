"""The errors of a whole table, by every grouping that helps to find their cause."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from shardwright.specs import Spec

from .accuracy import (
    ErrorSummary,
    GroupAgreement,
    RankAgreement,
    Trial,
    constant_efficiency_errors,
    group_agreements,
    rank_agreement,
    summarise_errors,
)
from .explained_row import ExplainedRow, worst_rows
from .model_kind import model_kind
from .outcome import Outcome, TimedRun, interval_bounds

# a plan that needs this much more than predicted may run out of memory although it was predicted to fit
UNDER_PREDICTED = 0.05


class RowsSummary(Spec):
    """The errors of some rows.

    `count` rows, of which `predicted` have a predicted time. `constant_efficiency`: the same rows predicted by FLOPs over
    one constant share of peak, fitted to them. `memory_under_predicted`: share of the rows with a measured peak whose
    prediction is more than 5% below it. `coverage_80`: share of measured times inside the 80% interval. `ranks`: agreement
    within groups of equal model, device, count, precision, batch and sequence length.
    """

    count: int
    predicted: int
    errors: ErrorSummary | None
    constant_efficiency: ErrorSummary | None
    memory: ErrorSummary | None
    memory_under_predicted: float | None
    coverage_80: float | None
    coverage_95: float | None
    ranks: RankAgreement | None


class ValidationSummary(RowsSummary):
    """The errors of all rows of a table.

    `skipped`: rows without a predicted time, by reason; `count` = `predicted` + all skipped. `too_large`: ids of rows
    that ran although the cost model says that they exceed the memory (their time is predicted all the same).
    `assumed`: predicted rows by what was assumed to read them. `core`: the rows with a target alone (`ReportedRun.core`).
    `rank_groups`: the groups of `ranks`, the largest regret first. `worst`: the rows with the largest errors, in detail;
    `core_worst`: those of the core, empty if the core is the whole table.
    """

    skipped: dict[str, int]
    too_large: tuple[str, ...]
    assumed: dict[str, int]
    core: RowsSummary | None
    by_source: dict[str, ErrorSummary]
    by_framework: dict[str, ErrorSummary]
    by_gpu: dict[str, ErrorSummary]
    by_model_kind: dict[str, ErrorSummary]
    by_metric: dict[str, ErrorSummary]
    memory_by_source: dict[str, ErrorSummary]
    rank_groups: tuple[GroupAgreement, ...]
    worst: tuple[ExplainedRow, ...]
    core_worst: tuple[ExplainedRow, ...]


def summarise(outcomes: Sequence[Outcome]) -> ValidationSummary:
    """Summarise the outcomes of a table's rows."""
    timed = _timed(outcomes)
    core = [outcome for outcome in outcomes if outcome.run.core]
    return ValidationSummary(
        **dict(summarise_rows(outcomes)),
        skipped=_counts(outcome.result.skipped for outcome in outcomes if outcome.result.skipped is not None),
        too_large=tuple(
            outcome.run.id for outcome in outcomes if outcome.prediction and outcome.prediction.too_large is not None
        ),
        assumed=_counts(text for one in timed for text in one.assumptions),
        core=summarise_rows(core) if core else None,
        by_source=_grouped((one.run.source, one.relative_error) for one in timed),
        by_framework=_grouped((one.run.framework, one.relative_error) for one in timed),
        by_gpu=_grouped((one.run.device, one.relative_error) for one in timed),
        by_model_kind=_grouped((model_kind(one.run.model), one.relative_error) for one in timed),
        by_metric=_grouped((one.measured.metric.name, one.relative_error) for one in timed),
        memory_by_source=_grouped((outcome.run.source, memory_error(outcome)) for outcome in outcomes),
        rank_groups=tuple(group_agreements(_trials(timed))),
        worst=worst_rows(timed),
        core_worst=worst_rows(_timed(core)) if len(core) < len(outcomes) else (),
    )


def summarise_rows(outcomes: Sequence[Outcome]) -> RowsSummary:
    """Summarise any set of rows: the whole table, its core, or one held-out source."""
    timed = _timed(outcomes)
    memory = [error for outcome in outcomes if (error := memory_error(outcome)) is not None]
    return RowsSummary(
        count=len(outcomes),
        predicted=len(timed),
        errors=summarise_errors([one.relative_error for one in timed]),
        constant_efficiency=_constant_efficiency(timed),
        memory=summarise_errors(memory),
        memory_under_predicted=sum(error < -UNDER_PREDICTED for error in memory) / len(memory) if memory else None,
        coverage_80=_coverage(timed, 0.80),
        coverage_95=_coverage(timed, 0.95),
        ranks=rank_agreement(_trials(timed)),
    )


def memory_error(outcome: Outcome) -> float | None:
    """Relative error of the peak memory; None if the row does not state it or has no plan."""
    measured, predicted = outcome.result.memory_measured_bytes, outcome.result.memory_predicted_bytes
    return None if measured is None or predicted is None else predicted / measured - 1


def _timed(outcomes: Iterable[Outcome]) -> list[TimedRun]:
    return [timed for outcome in outcomes if (timed := outcome.timed) is not None]


def _counts(texts: Iterable[str]) -> dict[str, int]:
    return dict(Counter(texts).most_common())


def _grouped(errors: Iterable[tuple[str, float | None]]) -> dict[str, ErrorSummary]:
    """The errors of each group that has any, from pairs of group and error; the group with most rows first."""
    groups: dict[str, list[float]] = defaultdict(list)
    for name, error in errors:
        groups[name] += [] if error is None else [error]
    summaries = {name: summarise_errors(group) for name, group in groups.items()}
    known = [(name, summary) for name, summary in summaries.items() if summary is not None]
    return dict(sorted(known, key=lambda item: -item[1].count))


def _constant_efficiency(timed: Sequence[TimedRun]) -> ErrorSummary | None:
    """Errors of the null model. It counts what the device computes, including recompute; otherwise it would lose for a trivial
    reason."""
    ideal = [_ideal_seconds(one) for one in timed]
    return summarise_errors(constant_efficiency_errors(ideal, [one.measured.seconds for one in timed]))


def _ideal_seconds(timed: TimedRun) -> float:
    cluster = timed.run.cluster
    peak = cluster.node.device.peak_flops_per_s[timed.run.training.precision.compute]
    return timed.prediction.estimate.hardware_flops / (peak * cluster.devices)


def _coverage(timed: Sequence[TimedRun], level: float) -> float | None:
    inside = [
        bounds[0] <= one.measured.seconds <= bounds[1]
        for one in timed
        if (bounds := interval_bounds(one.prediction.estimate, level)) is not None
    ]
    return sum(inside) / len(inside) if inside else None


def _trials(timed: Sequence[TimedRun]) -> list[Trial]:
    return [
        Trial(
            group=one.run.job,
            plan=(one.prediction.plan, one.run.training.stack),
            measured_seconds=one.measured.seconds,
            predicted_seconds=one.predicted_seconds,
        )
        for one in timed
    ]
