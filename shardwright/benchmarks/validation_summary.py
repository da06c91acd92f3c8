"""A whole table's errors, by every grouping that says where they come from."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

from shardwright.costmodel.spec import Spec

from .accuracy import (
    ErrorSummary,
    RankAgreement,
    Trial,
    constant_efficiency_errors,
    rank_agreement,
    summarise_errors,
)
from .outcome import Outcome, interval_bounds


class ValidationSummary(Spec):
    """All rows of a table taken together.

    `skipped`: rows without a predicted time, by reason; `count` = `predicted` + all skipped. `too_large`: ids of rows
    that ran although the cost model says they need more memory than there is (their time is predicted all the same).
    `assumed`: predicted rows by what had to be assumed to read them. `coverage_80`: share of measured times inside the
    80% interval. `constant_efficiency`: the same rows predicted by FLOPs over one constant share of peak, fitted to
    them. `ranks`: agreement within groups of equal model, device, count, precision, batch and sequence length.
    """

    count: int
    predicted: int
    skipped: dict[str, int]
    too_large: tuple[str, ...]
    assumed: dict[str, int]
    errors: ErrorSummary | None
    constant_efficiency: ErrorSummary | None
    by_source: dict[str, ErrorSummary]
    by_gpu: dict[str, ErrorSummary]
    by_framework: dict[str, ErrorSummary]
    memory: ErrorSummary | None
    coverage_80: float | None
    coverage_95: float | None
    ranks: RankAgreement | None


def summarise(outcomes: Sequence[Outcome]) -> ValidationSummary:
    """Fold the outcomes of a table's rows."""
    timed = [outcome for outcome in outcomes if outcome.result.relative_error is not None]
    return ValidationSummary(
        count=len(outcomes),
        predicted=len(timed),
        skipped=_counts(outcome.result.skipped for outcome in outcomes if outcome.result.skipped is not None),
        too_large=tuple(
            outcome.row.id for outcome in outcomes if outcome.prediction and outcome.prediction.too_large is not None
        ),
        assumed=_counts(text for outcome in timed if outcome.setup for text in outcome.setup.assumptions),
        errors=summarise_errors(_errors(timed)),
        constant_efficiency=_constant_efficiency(timed),
        by_source=_errors_by(timed, lambda outcome: outcome.result.source),
        by_gpu=_errors_by(timed, lambda outcome: outcome.row.gpu or "unknown"),
        by_framework=_errors_by(timed, lambda outcome: outcome.row.framework or "unknown"),
        memory=summarise_errors(_memory_errors(outcomes)),
        coverage_80=_coverage(timed, 0.80),
        coverage_95=_coverage(timed, 0.95),
        ranks=rank_agreement(_trials(timed)),
    )


def _counts(texts: Iterable[str]) -> dict[str, int]:
    return dict(Counter(texts).most_common())


def _errors(outcomes: Sequence[Outcome]) -> list[float]:
    return [outcome.result.relative_error for outcome in outcomes if outcome.result.relative_error is not None]


def _errors_by(outcomes: Sequence[Outcome], key: Callable[[Outcome], str]) -> dict[str, ErrorSummary]:
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[key(outcome)].append(outcome)
    summaries = {name: summarise_errors(_errors(group)) for name, group in groups.items()}
    known = [(name, summary) for name, summary in summaries.items() if summary is not None]
    return dict(sorted(known, key=lambda item: -item[1].count))


def _memory_errors(outcomes: Sequence[Outcome]) -> list[float]:
    results = [outcome.result for outcome in outcomes]
    return [
        result.memory_predicted_bytes / result.memory_measured_bytes - 1
        for result in results
        if result.memory_predicted_bytes is not None and result.memory_measured_bytes is not None
    ]


def _constant_efficiency(outcomes: Sequence[Outcome]) -> ErrorSummary | None:
    """Counts what the device computes, recompute included: a null model without that would lose for a trivial reason."""
    ideal, measured = [], []
    for outcome in outcomes:
        if outcome.setup is None or outcome.prediction is None or outcome.measured_seconds is None:
            continue
        cluster, compute = outcome.setup.cluster, outcome.setup.training.precision.compute
        peak = cluster.groups[0].device.peak_flops_per_s[compute]
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
            group=(row.model, row.gpu, row.gpus, row.precision, row.global_batch, row.seq_len, row.interconnect),
            plan=outcome.prediction.plan,
            measured_seconds=outcome.measured_seconds,
            predicted_seconds=outcome.prediction.estimate.step_seconds,
        )
        for outcome in outcomes
        if (row := outcome.row) and outcome.prediction is not None and outcome.measured_seconds is not None
    ]
