"""The report of a plan: one self-contained HTML file to read, zoom, print and send."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from shardwright.base import units as readable
from shardwright.costmodel import RankCharges, nodes_of_ranks, parameter_words
from shardwright.costmodel.op_times import CALIBRATED
from shardwright.costmodel.tables import usable_bytes
from shardwright.reports import render_page, write_page
from shardwright.reports.charts import Axis, Chart, Curve, Lines, Mark, Memory, chart_scripts
from shardwright.reports.plan import measured_lines, plan_lines, training_lines
from shardwright.specs import ClusterSpec, Estimate, Measurement, Plan, StepRecord, Timeline, TrainingSpec
from shardwright.specs.model import ModelSpec

from .bars import memory_bars, step_bars
from .basis import BASIS_COLUMNS, basis_rows
from .memory import memory_over_time
from .picture import mesh_boxes, rank_rows
from .rivals import RIVAL_COLUMNS, Rival, rival_points, rival_rows
from .timeline import StageParts, legend_of, shown_ranks, timeline_chart
from .traffic import TRAFFIC_COLUMNS, links_of, traffic_bars, traffic_rows


class Surrounding(NamedTuple):
    """The plan in other surroundings: the change, the estimate there or why there is none, and its batch over that of the job."""

    what: str
    estimate: Estimate | None
    reason: str = ""
    work: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Report:
    """The content of a report. Parts that are None or empty are left out.

    Attributes:
        why: single sentences.
        parts: the layers of each pass, as `pass_parts` returns them: what the timeline shows inside a block.
        charges: what a step is charged for, as `charged_step` returns it.
        rivals, surroundings: other plans, and this plan elsewhere.
        assumed: what the catalog gave that the user did not, in words.
    """

    model: ModelSpec
    cluster: ClusterSpec
    training: TrainingSpec
    plan: Plan
    estimate: Estimate
    why: Sequence[str] = ()
    timeline: Timeline | None = None
    parts: StageParts = ()
    charges: Sequence[RankCharges] = ()
    rivals: Sequence[Rival] = ()
    surroundings: Sequence[Surrounding] = ()
    assumed: str = ""
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
    estimate, links = report.estimate, links_of(report.plan, report.cluster) if report.charges else {}
    measured = measured_lines(report.plan, estimate, report.measurement) if report.measurement else []
    charts = charts_of(report)
    return render_page(
        "report.html.j2",
        title=f"{report.model.name} on {report.cluster.name}",
        report=report,
        tiles=tiles(estimate, report.cluster),
        job_lines=job_lines(report.model, report.cluster, report.training),
        plan_lines=plan_lines(report.plan),
        mesh=mesh_boxes(report.plan),
        ranks=rank_rows(report.plan),
        step_rows=[
            (name.replace("_", " "), readable.seconds(seconds), readable.share(seconds / estimate.step_seconds))
            for name, seconds in sorted(estimate.step, key=lambda part: -part[1])
            if seconds > 0
        ],
        timeline_ranks=shown_ranks(report.timeline) if report.timeline else [],
        traffic_columns=TRAFFIC_COLUMNS,
        traffic_rows=traffic_rows(report.charges, links, estimate) if links else [],
        rival_columns=RIVAL_COLUMNS,
        rival_rows=rival_rows(report.rivals, estimate),
        basis_columns=BASIS_COLUMNS,
        basis_rows=basis_rows(report.cluster, report.training.precision.compute),
        measured=measured,
        timeline_legend=legend_of(charts.get("timeline")),
        memory_ranks=[rank.name for rank in over_time.ranks]
        if isinstance(over_time := charts.get("memory_over_time"), Memory)
        else [],
        has_rival_chart="rivals" in charts,
        scripts=chart_scripts(charts),
    )


def charts_of(report: Report) -> dict[str, Chart]:
    """The charts of the page, by name."""
    estimate, cluster = report.estimate, report.cluster
    charts: dict[str, Chart] = {
        "step": step_bars([("this plan", estimate.step)]),
        "memory": memory_bars(estimate, cluster),
    }
    if report.timeline is not None:
        charts["timeline"] = timeline_chart(report.timeline, report.parts)
        charts["memory_over_time"] = memory_over_time(estimate, report.timeline, cluster)
    if report.charges and (links := links_of(report.plan, cluster)):
        charts["traffic"] = traffic_bars(report.charges, links)
    if any(one.estimate for one in report.rivals):
        charts["rivals"] = rival_points(report.rivals, report.plan, estimate)
    if report.surroundings:
        charts["surroundings"] = step_bars(
            [
                ("this plan", estimate.step),
                *((one.what, one.estimate.step) for one in report.surroundings if one.estimate),
            ],
            marks=(Mark("this plan", estimate.step_seconds, "chosen"),),
            work=[1.0, *(one.work for one in report.surroundings if one.estimate)],
        )
    if report.measurement is not None and report.measurement.steps:
        steps = report.measurement.steps
        charts["step_seconds"] = _step_seconds(steps, estimate.step_seconds)
        loss = Curve(name="loss", colour="measured", points=tuple((one.step, one.loss) for one in steps))
        charts["loss"] = Lines(x=Axis(name="step"), y=Axis(name="loss", from_data=True), curves=(loss,))
    return charts


def _step_seconds(steps: Sequence[StepRecord], predicted_seconds: float) -> Lines:
    curve = Curve(name="measured", colour="measured", points=tuple((one.step, one.seconds) for one in steps))
    mark = Mark("predicted", predicted_seconds, "chosen")
    return Lines(x=Axis(name="step"), y=Axis(name="seconds", unit="s"), curves=(curve,), marks=(mark,))


def fullest_rank(estimate: Estimate, cluster: ClusterSpec) -> tuple[int, float]:
    """The pipeline rank that fills most of what its device can use, and that share."""
    shares = [
        memory.total / usable_bytes(node.device, CALIBRATED)
        for memory, node in zip(estimate.memory, nodes_of_ranks(estimate, cluster), strict=True)
    ]
    return max(enumerate(shares), key=lambda one: one[1])


def interval_ends(estimate: Estimate) -> tuple[float, float] | None:
    """The ends of the step's 80% interval, in seconds; None where there is none."""
    return next(((one.low, one.high) for one in estimate.step_seconds_intervals if abs(one.level - 0.8) < 1e-9), None)


def tiles(estimate: Estimate, cluster: ClusterSpec) -> list[tuple[str, str, str]]:
    """The few numbers to see first: what, value, remark."""
    fullest, filled = fullest_rank(estimate, cluster)
    memory_bytes = estimate.memory[fullest].total
    between = "80%: " + " to ".join(map(readable.seconds, ends)) if (ends := interval_ends(estimate)) else ""
    each = estimate.tokens_per_s / estimate.device_count
    return [
        ("Step time", readable.seconds(estimate.step_seconds), between),
        ("Tokens per second", readable.count(estimate.tokens_per_s), f"{readable.count(each)} a device"),
        ("MFU", readable.share(estimate.mfu), f"HFU {readable.share(estimate.hfu)}"),
        (
            "Peak memory",
            readable.size(memory_bytes),
            f"{readable.share(filled)} of {readable.size(memory_bytes / filled)} usable",
        ),
        (
            "Cost",
            f"{readable.number(estimate.device_hours_per_billion_tokens)}",
            "device hours per billion tokens",
        ),
    ]


def job_lines(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec) -> list[tuple[str, str]]:
    """What was asked for, as (what, value)."""
    groups = (
        [(cluster.devices, cluster.node)] if not cluster.is_mixed else [(one.devices, one) for one in cluster.groups]
    )
    devices = "; ".join(f"{count} x {group.device.name}, {group.devices_per_node} a node" for count, group in groups)
    return [
        ("model", f"{model.name}: {parameter_words(model)}, {model.layer_count} layers"),
        ("cluster", devices),
        (
            "batch",
            f"{readable.count(training.global_batch)} sequences of {readable.count(training.seq_len)} tokens, {readable.count(training.tokens_per_step)} tokens a step",
        ),
        ("precision", f"{training.precision.compute} compute, {training.precision.gradients} gradients"),
        ("optimizer", str(training.method)),
        *training_lines(training),
    ]
