"""Where a step's seconds and a device's bytes go, as tables for the terminal."""

from rich.table import Table

from shardwright.base import units as readable
from shardwright.costmodel import part_words
from shardwright.specs import ClusterSpec, Estimate, Measurement, Plan, Timeline

from .measured import measured_lines


def step_table(estimate: Estimate) -> Table:
    """Seconds of the step by cause, largest first."""
    table = Table("cause", title="Step time", title_justify="left")
    table.add_column("seconds", justify="right")
    table.add_column("share", justify="right")
    for cause, seconds in sorted(estimate.step, key=lambda part: -part[1]):
        if seconds > 0:
            table.add_row(part_words(cause), readable.seconds(seconds), readable.share(seconds / estimate.step_seconds))
    return table


def memory_table(estimate: Estimate, cluster: ClusterSpec) -> Table:
    """Bytes of a device by part: the fullest pipeline rank, and the emptiest where there are several."""
    sizes_of_devices = dict.fromkeys(readable.size(group.device.memory_bytes) for group in cluster.groups)
    ranks = sorted(range(len(estimate.memory)), key=lambda rank: -estimate.memory[rank].total)
    shown = [ranks[0]] if len(ranks) == 1 else [ranks[0], ranks[-1]]
    table = Table("part", title=f"Memory of a device ({' or '.join(sizes_of_devices)})", title_justify="left")
    for rank in shown:
        table.add_column(estimate.rank_name(rank), justify="right")
    for part, _ in estimate.memory[ranks[0]]:
        sizes = [float(getattr(estimate.memory[rank], part)) for rank in shown]
        if any(sizes):
            table.add_row(part_words(part), *(readable.size(size) for size in sizes))
    table.add_section()
    table.add_row("total", *(readable.size(estimate.memory[rank].total) for rank in shown))
    return table


def timeline_table(timeline: Timeline) -> Table:
    """The simulated step: the idle share and the peak memory of each pipeline rank."""
    title = f"Simulated step: {readable.seconds(timeline.step_seconds)}"
    table = Table("pipeline rank", title=title, title_justify="left")
    table.add_column("idle", justify="right")
    table.add_column("peak memory", justify="right")
    for rank, (idle, curve) in enumerate(zip(timeline.idle_fractions(), timeline.memory, strict=True)):
        table.add_row(timeline.rank_name(rank), readable.share(float(idle)), readable.size(curve.peak_bytes))
    return table


def measured_table(plan: Plan, estimate: Estimate, measurement: Measurement) -> Table:
    """A prediction beside what the run showed.

    Raises:
        SpecError: the measurement is of another number of ranks than the plan.
    """
    table = Table("", title="Predicted and measured", title_justify="left")
    for column in ("predicted", "measured", "difference"):
        table.add_column(column, justify="right")
    for line in measured_lines(plan, estimate, measurement):
        table.add_row(*line)
    return table
