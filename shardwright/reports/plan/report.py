"""The report of a plan: one self-contained HTML file to read, print and send."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shardwright.base import units as readable
from shardwright.costmodel import nodes_of_ranks, parameter_words
from shardwright.reports import render_page, write_page
from shardwright.specs import ClusterSpec, Estimate, Measurement, Plan, Timeline, TrainingSpec
from shardwright.specs.model import ModelSpec

from .comparison import Comparison
from .measured import MeasuredLine, measured_lines
from .others import OTHERS_COLUMNS, OtherPlan, other_cells
from .tables import COMPARISON_COLUMNS, comparison_cells, estimate_lines
from .words import plan_lines, recompute_words, training_lines


@dataclass(frozen=True, kw_only=True)
class Report:
    """The content of a report. `why` holds single sentences; parts that are None are left out."""

    model: ModelSpec
    cluster: ClusterSpec
    training: TrainingSpec
    plan: Plan
    estimate: Estimate
    why: Sequence[str] = ()
    timeline: Timeline | None = None
    comparison: Comparison | None = None
    others: Sequence[OtherPlan] = ()
    measurement: Measurement | None = None


def write_report(path: Path, report: Report) -> None:
    """Write the report whole or not at all.

    Raises:
        SpecError: the folder is missing or not writable, or the measurement is of another number of ranks.
    """
    write_page(path, render_report(report))


def render_report(report: Report) -> str:
    """The page as text; the same report gives the same text.

    Raises:
        SpecError: the measurement is of another number of ranks than the plan.
    """
    measured = _measured(report)
    return render_page(
        "report.html.j2",
        title=f"{report.model.name} on {report.cluster.name}",
        report=report,
        tiles=_tiles(report),
        job_lines=_job_lines(report),
        plan_lines=plan_lines(report.plan),
        stage_rows=_stage_rows(report.plan),
        estimate_lines=estimate_lines(report.estimate, report.cluster),
        step_rows=_step_rows(report.estimate),
        figures=_figures(report),
        comparison_columns=COMPARISON_COLUMNS,
        comparison_rows=_comparison_rows(report.comparison),
        others_columns=OTHERS_COLUMNS,
        other_rows=[other_cells(other, report.estimate) for other in report.others],
        measured=measured,
    )


def _tiles(report: Report) -> list[tuple[str, str, str]]:
    """The few numbers to see first: what, value, remark."""
    estimate = report.estimate
    sizes = [node.device.memory_bytes for node in nodes_of_ranks(estimate, report.cluster)]
    filled = [memory.total / size for memory, size in zip(estimate.memory, sizes, strict=True)]
    fullest = filled.index(max(filled))
    interval = next((i for i in estimate.step_seconds_intervals if abs(i.level - 0.8) < 1e-9), None)
    between = f"80%: {readable.seconds(interval.low)} to {readable.seconds(interval.high)}" if interval else ""
    each = estimate.tokens_per_s / estimate.device_count
    return [
        ("Step time", readable.seconds(estimate.step_seconds), between),
        ("Tokens per second", readable.count(estimate.tokens_per_s), f"{readable.count(each)} a device"),
        ("MFU", readable.share(estimate.mfu), f"HFU {readable.share(estimate.hfu)}"),
        (
            "Peak memory",
            readable.size(estimate.memory[fullest].total),
            f"{readable.share(filled[fullest])} of {readable.size(sizes[fullest])}",
        ),
    ]


def _job_lines(report: Report) -> list[tuple[str, str]]:
    model, training, cluster = report.model, report.training, report.cluster
    groups = (
        [(cluster.devices, cluster.node)] if not cluster.is_mixed else [(one.devices, one) for one in cluster.groups]
    )
    devices = "; ".join(f"{count} x {group.device.name}, {group.devices_per_node} a node" for count, group in groups)
    return [
        ("model", f"{model.name}: {parameter_words(model)}, {model.layer_count} layers"),
        ("cluster", devices),
        (
            "batch",
            f"{training.global_batch} sequences of {training.seq_len} tokens, {readable.count(training.tokens_per_step)} tokens a step",
        ),
        ("precision", f"{training.precision.compute} compute, {training.precision.gradients} gradients"),
        ("optimizer", training.optimizer),
        *training_lines(training),
    ]


def _stage_rows(plan: Plan) -> list[tuple[str, int, int, str]]:
    """(stage, pipeline rank, layers, recompute) of each stage, of every group with replicas; empty without a pipeline."""
    if plan.mesh.pp == 1:
        return []
    return [
        (
            f"{index} of group {group}" if plan.replicas else str(index),
            one.stage_ranks[index],
            stage.layer_count,
            recompute_words(one.model_copy(update={"stages": (stage,)})),
        )
        for group, one in enumerate(plan.by_group, start=1)
        for index, stage in enumerate(one.stages)
    ]


def _step_rows(estimate: Estimate) -> list[tuple[str, str, str]]:
    return [
        (name.replace("_", " "), readable.seconds(seconds), readable.share(seconds / estimate.step_seconds))
        for name, seconds in estimate.step
        if seconds > 0
    ]


def _figures(report: Report) -> dict[str, str]:
    # matplotlib takes half a second to import, so only drawing imports it
    from . import charts
    from .timeline_chart import detail_windows, memory_over_time_chart, timeline_chart

    capacity_bytes = max(node.device.memory_bytes for node in nodes_of_ranks(report.estimate, report.cluster))
    figures = {
        "step": charts.step_chart(report.estimate),
        "memory": charts.memory_chart(report.estimate, capacity_bytes),
    }
    if report.timeline is not None:
        figures["timeline"] = timeline_chart(report.timeline)
        for name, window in zip(("start", "end"), detail_windows(report.timeline), strict=False):
            figures[f"timeline_{name}"] = timeline_chart(report.timeline, window, label=f"Timeline, {name} of the step")
        figures["memory_over_time"] = memory_over_time_chart(report.timeline, capacity_bytes)
    if report.comparison is not None and report.comparison.fastest is not None:
        figures["comparison"] = charts.comparison_chart(report.comparison)
    if report.measurement is not None and report.measurement.steps:
        steps = report.measurement.steps
        figures["loss"] = charts.loss_chart(steps)
        figures["step_seconds"] = charts.step_seconds_chart(
            steps, report.estimate.step_seconds, report.measurement.warmup_steps
        )
    return figures


def _comparison_rows(comparison: Comparison | None) -> list[tuple[list[str], str | None, bool]]:
    """Cells, the reason where it cannot run, and whether it is the fastest."""
    if comparison is None:
        return []
    best = comparison.fastest
    return [(comparison_cells(row, comparison), row.reason, row is best) for row in comparison.rows]


def _measured(report: Report) -> list[MeasuredLine]:
    return measured_lines(report.plan, report.estimate, report.measurement) if report.measurement else []
