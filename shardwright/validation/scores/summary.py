"""The errors of a whole table, by every grouping that helps to find their cause."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

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
from .core_rows import is_core
from .explained_row import ExplainedRow, worst_rows
from .model_kind import model_kind
from .outcome import Outcome, interval_bounds

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
    `assumed`: predicted rows by what was assumed to read them. `core`: the rows of core_rows.py alone.
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
    core = [outcome for outcome in outcomes if is_core(outcome.row)]
    return ValidationSummary(
        **dict(summarise_rows(outcomes)),
        skipped=_counts(outcome.result.skipped for outcome in outcomes if outcome.result.skipped is not None),
        too_large=tuple(
            outcome.row.id for outcome in outcomes if outcome.prediction and outcome.prediction.too_large is not None
        ),
        assumed=_counts(text for outcome in timed for text in outcome.assumptions),
        core=summarise_rows(core) if core else None,
        by_source=_grouped(timed, lambda outcome: outcome.result.source, time_errors),
        by_framework=_grouped(timed, lambda outcome: outcome.result.framework, time_errors),
        by_gpu=_grouped(timed, lambda outcome: outcome.row.gpu or "unknown", time_errors),
        by_model_kind=_grouped(
            timed, lambda outcome: model_kind(outcome.setup.model) if outcome.setup else "unknown", time_errors
        ),
        by_metric=_grouped(timed, lambda outcome: outcome.row.metric_name or "unknown", time_errors),
        memory_by_source=_grouped(outcomes, lambda outcome: outcome.result.source, memory_errors),
        rank_groups=tuple(group_agreements(_trials(timed))),
        worst=worst_rows(timed),
        core_worst=worst_rows(core) if len(core) < len(outcomes) else (),
    )


def summarise_rows(outcomes: Sequence[Outcome]) -> RowsSummary:
    """Summarise any set of rows: the whole table, its core, or one held-out source."""
    timed, memory = _timed(outcomes), memory_errors(outcomes)
    return RowsSummary(
        count=len(outcomes),
        predicted=len(timed),
        errors=summarise_errors(time_errors(timed)),
        constant_efficiency=_constant_efficiency(timed),
        memory=summarise_errors(memory),
        memory_under_predicted=sum(error < -UNDER_PREDICTED for error in memory) / len(memory) if memory else None,
        coverage_80=_coverage(timed, 0.80),
        coverage_95=_coverage(timed, 0.95),
        ranks=rank_agreement(_trials(timed)),
    )


def time_errors(outcomes: Iterable[Outcome]) -> list[float]:
    """Relative errors of the step time, of the rows that have one."""
    return [outcome.result.relative_error for outcome in outcomes if outcome.result.relative_error is not None]


def memory_errors(outcomes: Iterable[Outcome]) -> list[float]:
    """Relative errors of the peak memory, of the rows that state one and have a plan."""
    results = [outcome.result for outcome in outcomes]
    return [
        result.memory_predicted_bytes / result.memory_measured_bytes - 1
        for result in results
        if result.memory_predicted_bytes is not None and result.memory_measured_bytes is not None
    ]


def _timed(outcomes: Iterable[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.result.relative_error is not None]


def _counts(texts: Iterable[str]) -> dict[str, int]:
    return dict(Counter(texts).most_common())


def _grouped(
    outcomes: Iterable[Outcome], key: Callable[[Outcome], str], errors: Callable[[Iterable[Outcome]], list[float]]
) -> dict[str, ErrorSummary]:
    """The errors of each group that has any, the group with most rows first."""
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[key(outcome)].append(outcome)
    summaries = {name: summarise_errors(errors(group)) for name, group in groups.items()}
    known = [(name, summary) for name, summary in summaries.items() if summary is not None]
    return dict(sorted(known, key=lambda item: -item[1].count))


def _constant_efficiency(outcomes: Sequence[Outcome]) -> ErrorSummary | None:
    """Errors of the null model. It counts what the device computes, including recompute; otherwise it would lose for a trivial
    reason."""
    ideal, measured = [], []
    for outcome in outcomes:
        if outcome.setup is None or outcome.prediction is None or outcome.measured_seconds is None:
            continue
        cluster, compute = outcome.setup.cluster, outcome.setup.training.precision.compute
        peak = cluster.node.device.peak_flops_per_s[compute]
        ideal.append(outcome.prediction.estimate.hardware_flops / (peak * cluster.devices))
        measured.append(outcome.measured_seconds)
    return summarise_errors(constant_efficiency_errors(ideal, measured))


def _coverage(outcomes: Sequence[Outcome], level: float) -> float | None:
    inside = []
    for outcome in outcomes:
        bounds = interval_bounds(outcome.prediction.estimate, level) if outcome.prediction else None
        if bounds is not None and outcome.measured_seconds is not None:
            inside.append(bounds[0] <= outcome.measured_seconds <= bounds[1])
    return sum(inside) / len(inside) if inside else None


def _trials(outcomes: Sequence[Outcome]) -> list[Trial]:
    return [
        Trial(
            group=_job(outcome),
            plan=(outcome.prediction.plan, outcome.setup.training.stack),
            measured_seconds=outcome.measured_seconds,
            predicted_seconds=outcome.prediction.estimate.step_seconds,
        )
        for outcome in outcomes
        if outcome.setup is not None and outcome.prediction is not None and outcome.measured_seconds is not None
    ]


def _job(outcome: Outcome) -> str:
    """The job of a row; rows of the same job differ only in their plan."""
    row = outcome.row
    job = f"{row.model}, {row.gpus} x {row.gpu}, {row.precision}, batch {row.global_batch} x {row.seq_len} tokens"
    return f"{job}, {row.interconnect}" if row.interconnect else job
