"""Tables for the terminal."""

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shardwright.base import units as readable
from shardwright.validation.scores import (
    UNDER_PREDICTED,
    ErrorSummary,
    ExplainedRow,
    RowsSummary,
    Validation,
    ValidationSummary,
)
from shardwright.validation.table import short_source_name

_PARTS_SHOWN = 3
_ERROR_COLUMNS = ("rows", "median", "mean", "p90", "worst", "mean signed")


def validation_tables(validation: Validation, *, worst: int = 10) -> RenderableType:
    """The errors of a table overall and by group, the `worst` rows, and what was skipped and why."""
    summary = validation.summary
    parts: list[RenderableType] = [
        Text(f"{summary.predicted} of {summary.count} rows predicted, {summary.count - summary.predicted} skipped."),
        _overall(summary),
        Text("Error: predicted step time / measured step time - 1; without a sign its size.", style="dim"),
    ]
    for title, groups in (
        ("By source", {short_source_name(name): errors for name, errors in summary.by_source.items()}),
        ("By framework", summary.by_framework),
        ("By device", summary.by_gpu),
        ("By kind of model", summary.by_model_kind),
        ("By metric", summary.by_metric),
    ):
        if len(groups) > 1:
            parts.append(_errors_table(title, groups))
    parts.append(Text("\n".join(_remarks(summary))))
    if worst and summary.worst:
        parts.append(_worst_rows(summary.worst[:worst]))
    if summary.skipped:
        parts.append(_counts_table("Skipped", "reason", summary.skipped))
    if summary.assumed:
        parts.append(_counts_table("Assumed where a row says nothing", "assumption", summary.assumed))
    return Group(*parts)


def _overall(summary: ValidationSummary) -> Table:
    named = {
        "step time": summary.errors,
        "step time, one constant efficiency instead": summary.constant_efficiency,
        "peak memory": summary.memory,
    }
    if summary.core and summary.core.predicted < summary.predicted:
        named |= {
            "core: step time": summary.core.errors,
            "core: step time, one constant efficiency instead": summary.core.constant_efficiency,
            "core: peak memory": summary.core.memory,
        }
    return _errors_table("Errors", {name: errors for name, errors in named.items() if errors is not None})


def _errors_table(title: str, groups: Mapping[str, ErrorSummary]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("")
    for column in _ERROR_COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for name, errors in groups.items():
        sizes = [readable.share(value) for value in (errors.median, errors.mean, errors.p90, errors.worst)]
        table.add_row(Text(name), str(errors.count), *sizes, readable.signed_share(errors.mean_signed))
    return table


def _remarks(summary: ValidationSummary) -> list[str]:
    lines = [*summary_sentences(summary)]
    if summary.core and summary.core.predicted < summary.predicted:
        lines += [f"Core. {sentence}" for sentence in summary_sentences(summary.core)]
    if summary.too_large:
        lines.append(f"{len(summary.too_large)} rows ran although the prediction exceeds the memory.")
    return lines


def summary_sentences(summary: RowsSummary) -> list[str]:
    """Sentences on intervals, order of plans, and memory predicted too small, which a table of errors does not show."""
    sentences = []
    if summary.coverage_80 is not None and summary.coverage_95 is not None:
        sentences.append(
            f"Inside the 80% interval: {readable.share(summary.coverage_80)} of rows; "
            f"inside the 95% interval: {readable.share(summary.coverage_95)}."
        )
    if ranks := summary.ranks:
        sentences.append(
            f"Order of plans for the same job: Kendall tau {ranks.kendall_tau:.2f} over {ranks.pairs} pairs in "
            f"{ranks.groups} groups; taking the plan predicted fastest costs {readable.share(ranks.median_regret)} "
            f"(median), {readable.share(ranks.mean_regret)} (mean), {readable.share(ranks.worst_regret)} (worst)."
        )
    if summary.memory_under_predicted is not None and summary.memory is not None:
        sentences.append(
            f"Peak memory predicted more than {UNDER_PREDICTED:.0%} too small: "
            f"{readable.share(summary.memory_under_predicted)} of {summary.memory.count} rows."
        )
    return sentences


def _worst_rows(worst: Sequence[ExplainedRow]) -> Table:
    table = Table(title="Largest errors", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("row", no_wrap=True)
    table.add_column("framework")
    table.add_column("devices")
    for column in ("measured", "predicted", "error"):
        table.add_column(column, justify="right")
    table.add_column("predicted to go to")
    for row in worst:
        table.add_row(
            Text(row.id),
            Text(row.framework),
            Text(row.devices),
            readable.seconds(row.measured_seconds),
            readable.seconds(row.predicted_seconds),
            readable.signed_share(row.relative_error),
            Text(", ".join(f"{part.name} {readable.share(part.share)}" for part in row.step[:_PARTS_SHOWN])),
        )
    return table


def _counts_table(title: str, what: str, counts: Mapping[str, int]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("rows", justify="right")
    table.add_column(what)
    for text, number in counts.items():
        table.add_row(str(number), Text(text))
    return table
