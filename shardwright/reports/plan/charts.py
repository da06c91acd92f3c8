"""The figures of a report."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from shardwright.base import units as readable
from shardwright.reports.figures import PAGE, Paint, draw
from shardwright.specs import Estimate, StepRecord

from .comparison import Comparison

# Okabe and Ito's colours, told apart with any colour vision; greys for waiting and overhead.
CAUSE_COLOURS = {
    "compute": "#0072B2",
    "recompute": "#56B4E9",
    "tensor_parallel": "#E69F00",
    "context_parallel": "#8B5A00",
    "expert_parallel": "#7A1FA2",
    "data_parallel": "#D55E00",
    "pipeline_transfer": "#CC79A7",
    "pipeline_bubble": "#A0A0A0",
    "host_copy": "#F0E442",
    "straggler": "#8C564B",
    "optimizer": "#009E73",
}
PART_COLOURS = {
    "parameters": "#0072B2",
    "gathered_parameters": "#56B4E9",
    "gradients": "#E69F00",
    "optimizer_state": "#009E73",
    "optimizer_step": "#66C2A5",
    "activations": "#D55E00",
    "logits": "#CC79A7",
    "communication_buffers": "#F0E442",
    "allocator_slack": "#C8C8C8",
    "communicators": "#B8A53A",
    "context": "#8C8C8C",
}


def step_chart(estimate: Estimate) -> str:
    """Where the step's time goes: one stacked bar."""

    def paint(axes: Axes) -> None:
        start = 0.0
        shown = [(name, seconds) for name, seconds in estimate.step if seconds > 0]
        for name, seconds in shown:
            axes.barh(0, seconds, left=start, color=CAUSE_COLOURS[name], height=0.6)
            part = seconds / estimate.step_seconds
            if part > 0.06:
                axes.text(
                    start + seconds / 2,
                    0,
                    readable.share(part),
                    ha="center",
                    va="center",
                    color=_on(CAUSE_COLOURS[name]),
                )
            start += seconds
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xlim(0, start)
        axes.set_xlabel("seconds of one step")
        handles = [
            Patch(color=CAUSE_COLOURS[name], label=f"{name.replace('_', ' ')} {readable.seconds(seconds)}")
            for name, seconds in shown
        ]
        axes.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4)

    return draw(paint, height=1.9, label="Predicted step by cause")


def memory_chart(estimate: Estimate, capacity_bytes: float) -> str:
    """What fills the device of each pipeline rank: stacked bars against the capacity."""
    gib = 2.0**30
    ranks = range(len(estimate.memory))
    names = [name for name, _ in estimate.memory[0] if any(getattr(memory, name) > 0 for memory in estimate.memory)]

    def paint(axes: Axes) -> None:
        starts = [0.0] * len(estimate.memory)
        for name in names:
            sizes = [getattr(memory, name) / gib for memory in estimate.memory]
            axes.barh(ranks, sizes, left=starts, color=PART_COLOURS[name], height=0.72, label=name.replace("_", " "))
            starts = [start + size for start, size in zip(starts, sizes, strict=True)]
        axes.axvline(capacity_bytes / gib, color=PAGE, linestyle="--", linewidth=1)
        axes.annotate(
            f"capacity {readable.size(capacity_bytes)}",
            (capacity_bytes / gib, -0.62),
            xytext=(-5, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=8.5,
        )
        axes.set_ylim(len(starts) - 0.45, -0.95)
        axes.set_xlim(0, max(*starts, capacity_bytes / gib) * 1.02)
        axes.set_yticks(
            list(ranks),
            [estimate.rank_name(rank).removeprefix("pipeline ") if len(starts) <= 32 else str(rank) for rank in ranks],
        )
        axes.set_xlabel("GiB on one device of each pipeline rank at its peak")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=5)

    return draw(paint, height=1.5 + 0.32 * len(estimate.memory), label="Predicted memory by part")


def comparison_bars(comparison: Comparison) -> Paint:
    """Predicted step of every way that fits, stacked by cause, in the comparison's order."""
    able = [(row.name, row.estimate) for row in comparison.rows if row.step_seconds is not None and row.estimate]

    def paint(axes: Axes) -> None:
        starts = [0.0] * len(able)
        for cause, colour in CAUSE_COLOURS.items():
            seconds = [float(getattr(estimate.step, cause)) for _, estimate in able]
            if any(seconds):
                label = cause.replace("_", " ")
                axes.barh(range(len(able)), seconds, left=starts, color=colour, height=0.66, label=label)
                starts = [start + part for start, part in zip(starts, seconds, strict=True)]
        for place, total in enumerate(starts):
            shown = readable.seconds(total)
            axes.annotate(shown, (total, place), xytext=(4, 0), textcoords="offset points", va="center", ha="left")
        axes.set_yticks(range(len(able)), [name for name, _ in able])
        axes.set_ylim(max(len(able), 1) - 0.5, -0.5)
        axes.set_xlim(0, 1.1 * max(starts, default=1.0))
        axes.set_xlabel("predicted seconds of one step")
        if able:
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4)

    return paint


def comparison_chart(comparison: Comparison) -> str:
    """`comparison_bars` as a figure of a page."""
    able = sum(row.step_seconds is not None for row in comparison.rows)
    return draw(comparison_bars(comparison), height=1.4 + 0.4 * able, label="Predicted step of each plan")


def loss_chart(steps: Sequence[StepRecord]) -> str:
    """Loss over steps."""

    def paint(axes: Axes) -> None:
        marker = "o" if len(steps) <= 60 else None
        axes.plot([s.step for s in steps], [s.loss for s in steps], color="#0072B2", marker=marker, markersize=3)
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        axes.margins(x=0.01)

    return draw(paint, height=2.6, label="Loss")


def step_seconds_chart(steps: Sequence[StepRecord], predicted_seconds: float | None, warmup_steps: int) -> str:
    """Seconds of every measured step, the prediction as a line, the warm-up shaded."""

    def paint(axes: Axes) -> None:
        places = [s.step for s in steps]
        axes.bar(places, [s.seconds for s in steps], color="#E69F00", width=0.8, label="measured")
        if warmup_steps and places:
            axes.axvspan(places[0] - 0.5, places[0] + warmup_steps - 0.5, color="#A0A0A0", alpha=0.25, label="warm-up")
        if predicted_seconds is not None:
            axes.axhline(predicted_seconds, color="#0072B2", linestyle="--", label="predicted")
        axes.set_xlabel("step")
        axes.set_ylabel("seconds")
        axes.margins(x=0.01)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)

    return draw(paint, height=2.6, label="Seconds of each step")


def _on(colour: str) -> str:
    """Black or white, whichever reads on `colour` (relative luminance, ITU-R BT.709)."""
    red, green, blue = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    return "#000000" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.5 else "#ffffff"
