"""The timeline of a step as a figure: one row for each pipeline rank."""

import statistics
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from shardwright.costmodel.pipeline import ActionKind, parse_work
from shardwright.reports.figures import draw
from shardwright.specs import Span, Timeline

_COLOURS = {  # two shades, for even and odd microbatches
    "forward": ("#0072B2", "#4D9FCE"),
    "backward": ("#E69F00", "#F2C45E"),
    "input gradient": ("#E69F00", "#F2C45E"),
    "weight gradient": ("#8C7AA9", "#BDB0D0"),
    "data parallel": ("#D55E00", "#D55E00"),
    "optimizer": ("#009E73", "#009E73"),
    "pipeline send": ("#CC79A7", "#CC79A7"),
}
_COMPUTE = {kind: kind.name.lower().replace("_", " ") for kind in ActionKind}
_LEGIBLE_SHARE = 0.016  # as a share of the window: the narrowest block with room for its microbatch's number
_BLOCKS_IN_DETAIL = 56  # blocks of average length across a window that shows detail
_MAXIMUM_SHAPES = 6000  # beyond this number the blocks are one embedded image, because many shapes make a page slow


def detail_windows(timeline: Timeline) -> list[tuple[float, float]]:
    """Windows (from, to) in seconds at the step's start and end in which single blocks are legible; none for a short step."""
    lengths = [span.seconds for span in timeline.spans if span.lane == "compute"]
    if not lengths:
        return []
    last_rank_starts = min((s.start_seconds for s in timeline.lane(timeline.pp - 1, "compute")), default=0.0)
    window = max(_BLOCKS_IN_DETAIL * statistics.fmean(lengths), 1.5 * last_rank_starts)
    step_seconds = timeline.step_seconds
    return [(0.0, window), (step_seconds - window, step_seconds)] if window < 0.5 * step_seconds else []


def timeline_chart(timeline: Timeline, window: tuple[float, float] | None = None, *, label: str = "Timeline") -> str:
    """Forward, backward and the rest of each pipeline rank; neighbouring microbatches in two shades.

    Sends lie in a thin lane under their rank. Blocks wide enough carry their microbatch's number. `window` (from, to) in seconds shows
    a part instead of the whole step.
    """
    start, end = window or (0.0, timeline.step_seconds)
    spans = [span for span in timeline.spans if span.end_seconds >= start and span.start_seconds <= end]

    def paint(axes: Axes) -> None:
        _paint_blocks(axes, spans)
        _paint_numbers(axes, spans, start, end)
        axes.set_xlim(start, end)
        axes.set_ylim(timeline.pp - 0.4, -0.6)
        axes.set_yticks(range(timeline.pp), [f"rank {timeline.rank_name(rank)}" for rank in range(timeline.pp)])
        axes.set_xlabel("seconds")
        present = {block.kind for span in spans for block in _blocks(span)}
        axes.legend(
            handles=[Patch(color=dark, label=kind) for kind, (dark, _) in _COLOURS.items() if kind in present],
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
            ncols=len(_COLOURS),
        )

    return draw(paint, height=1.2 + 0.42 * timeline.pp, label=label)


class _Block(NamedTuple):
    """The painted block of a span: `top` and `height` in rows, from the middle of its rank's row."""

    kind: str
    microbatch: int
    top: float
    height: float


def _blocks(span: Span) -> Iterator[_Block]:
    """One block, or two halves on top of each other where two passes are overlapped."""
    if span.lane == "pipeline send":
        yield _Block(span.lane, span.microbatch or 0, 0.33, 0.1)
    elif span.lane != "compute":
        yield _Block(span.lane, 0, -0.4, 0.68)
    else:
        passes = parse_work(span.name).passes
        height = 0.68 / len(passes)
        for position, action in enumerate(passes):
            yield _Block(_COMPUTE[action.kind], action.microbatch, -0.4 + position * height, height)


def _paint_blocks(axes: Axes, spans: list[Span]) -> None:
    rows: dict[tuple[float, float, str], list[tuple[float, float]]] = defaultdict(list)
    for span in spans:
        for block in _blocks(span):
            shade = _COLOURS[block.kind][block.microbatch % 2]
            rows[span.rank + block.top, block.height, shade].append((span.start_seconds, span.seconds))
    for (top, height, shade), intervals in rows.items():
        axes.broken_barh(
            intervals, (top, height), facecolors=shade, linewidth=0, rasterized=len(spans) > _MAXIMUM_SHAPES
        )


def _paint_numbers(axes: Axes, spans: list[Span], start: float, end: float) -> None:
    for span in spans:
        inside = min(span.end_seconds, end) - max(span.start_seconds, start)
        if span.lane == "compute" and inside > _LEGIBLE_SHARE * (end - start):
            for block in _blocks(span):
                axes.text(
                    max(span.start_seconds, start) + inside / 2,
                    span.rank + block.top + block.height / 2,
                    str(block.microbatch),
                    ha="center",
                    va="center",
                    color="#ffffff" if block.kind == "forward" else "#000000",
                    fontsize=7.5,
                )


def memory_over_time_chart(timeline: Timeline, capacity_bytes: float) -> str:
    """Memory of the first, the middle and the last pipeline rank over the step, against the capacity."""
    gib = 2.0**30
    ranks = sorted({0, timeline.pp // 2, timeline.pp - 1})
    colours = ("#0072B2", "#E69F00", "#009E73")

    def paint(axes: Axes) -> None:
        for rank, colour in zip(ranks, colours, strict=False):
            curve = timeline.memory[rank]
            seconds = [*curve.seconds.tolist(), timeline.step_seconds]
            sizes = [size / gib for size in (*curve.bytes.tolist(), float(curve.bytes[-1]))]
            axes.step(
                seconds, sizes, where="post", color=colour, linewidth=1.2, label=f"rank {timeline.rank_name(rank)}"
            )
        axes.axhline(capacity_bytes / gib, color="#D55E00", linestyle="--", linewidth=1, label="capacity")
        axes.set_xlim(0, timeline.step_seconds)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("seconds")
        axes.set_ylabel("GiB")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4)

    return draw(paint, height=2.6, label="Memory over the step")
