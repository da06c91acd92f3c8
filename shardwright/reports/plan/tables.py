"""A plan, its estimate and its goodput as tables for the terminal."""

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from shardwright.base import units as readable
from shardwright.costmodel import Goodput, lacking_bytes, parameter_words
from shardwright.specs import ClusterSpec, Estimate, Plan, TrainingSpec
from shardwright.specs.model import ModelSpec

from .words import plan_lines, training_lines


def plan_table(
    plan: Plan,
    estimate: Estimate | None = None,
    training: TrainingSpec | None = None,
    *,
    model: ModelSpec | None = None,
    cluster: ClusterSpec | None = None,
) -> Table:
    """A plan's choices, the predicted figures, and unusual options of the training.

    `model` adds its parameter count at the top. `cluster` adds the memory that a device lacks.
    """
    table = Table(show_header=False)
    table.add_column("what", style="bold")
    table.add_column("value")
    if model is not None:
        table.add_row("model", Text(parameter_words(model)))
    for what, value in [*plan_lines(plan), *(training_lines(training) if training else [])]:
        table.add_row(what, Text(value))
    if estimate is not None:
        table.add_section()
        for what, value in estimate_lines(estimate, cluster):
            table.add_row(what, Text(value))
    return table


def estimate_lines(estimate: Estimate, cluster: ClusterSpec | None = None) -> list[tuple[str, str]]:
    """The figures of an estimate, as (what, value); with `cluster` also how much memory a device lacks."""
    step = readable.seconds(estimate.step_seconds)
    for interval in estimate.step_seconds_intervals:
        if abs(interval.level - 0.8) < 1e-9:
            step += f" (80% interval {readable.seconds(interval.low)} to {readable.seconds(interval.high)})"
    lines = [
        ("step time", step),
        (
            "throughput",
            f"{readable.count(estimate.tokens_per_s)} tokens/s, "
            f"{readable.count(estimate.tokens_per_s / estimate.device_count)} tokens/s/device",
        ),
        ("MFU, HFU", f"{readable.share(estimate.mfu)}, {readable.share(estimate.hfu)}"),
        (
            "peak memory",
            f"{readable.size(estimate.peak_memory_bytes)} on the fullest device{_lacking(estimate, cluster)}",
        ),
    ]
    if max(estimate.host_bytes, default=0.0) > 0:
        lines.append(("host memory", f"{readable.size(max(estimate.host_bytes))} for each device"))
    if max(estimate.nvme_bytes, default=0.0) > 0:
        lines.append(("drives", f"{readable.size(max(estimate.nvme_bytes))} for each device"))
    lines.append(
        ("cost", f"{readable.number(estimate.device_hours_per_billion_tokens)} device hours per billion tokens")
    )
    lines.append(("rests on", "measured rates" if estimate.basis == "profile" else "catalog figures"))
    return lines


def _lacking(estimate: Estimate, cluster: ClusterSpec | None) -> str:
    lacking = lacking_bytes(estimate, cluster) if cluster else 0.0
    return f", {readable.size(lacking)} too much" if lacking > 0 else ""


def goodput_table(left: dict[str, Goodput]) -> Table:
    """Goodput with failures and checkpoints, by the plan's name."""
    table = Table(title="With failures and checkpoints", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("plan", no_wrap=True)
    for column in ("tokens/s", "training", "checkpoints", "failures", "checkpoint every", "a failure every"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, one in left.items():
        table.add_row(
            Text(name),
            readable.count(one.tokens_per_s),
            *map(readable.share, (one.training_share, one.checkpoint_share, one.failure_share)),
            f"{readable.count(one.checkpoint_every)} steps",
            readable.seconds(one.mean_seconds_between_failures),
        )
    return table
