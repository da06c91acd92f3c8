"""The timeline of a step as data: rows of blocks from the simulation, and the layers inside a block from the cost tables."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from shardwright.costmodel import PassPart
from shardwright.costmodel.pipeline import ActionKind, parse_work
from shardwright.reports.charts import CAUSES, TimelineChart, name_of
from shardwright.specs import Span, Timeline

StageParts = Sequence[Sequence[Sequence[PassPart]]]
"""For each group with replicas and each stage, the parts of a pass, as `pass_parts` returns them."""

_MOST_BLOCKS = 120_000
_TICKS = 10_000_000
_KINDS = {kind: kind.name.lower() for kind in ActionKind}
_ACTIONS = {name: kind for kind, name in _KINDS.items()}
_LANES = {"pipeline send": "pipeline_transfer", "data parallel": "data_parallel", "optimizer": "optimizer"}
_ORDER = ("forward", "backward", "input_gradient", "weight_gradient", "data_parallel", "optimizer")


def timeline_chart(timeline: Timeline, parts: StageParts = ()) -> TimelineChart:
    """Rows of work and of sends for every pipeline rank; of a step with very many blocks, for some between the first and last."""
    return _Rows(timeline, parts).chart()


def shown_ranks(timeline: Timeline) -> list[int]:
    """The pipeline ranks that the chart has."""
    step = -(-len(timeline.spans) // _MOST_BLOCKS)
    return [rank for rank in range(timeline.pp) if rank % step == 0 or rank == timeline.pp - 1]


def legend_of(chart: object) -> list[tuple[str, str]]:
    """The colours of a timeline as (words, meaning): its passes, and the causes inside their layers."""
    if not isinstance(chart, TimelineChart):
        return []
    passes = [one for work in chart.works for one in work["passes"]]
    kinds = {one["kind"] for one in passes}
    causes = {cause for one in passes for part in one["parts"] for cause, _ in part["seconds"]}
    shown = [kind for kind in (*_ORDER, "pipeline_transfer") if kind in kinds]
    shown += [cause for cause in CAUSES if cause in causes - kinds - {"compute"}]
    names = {"forward": "forward, compute"} if "compute" in causes else {}
    return [(names.get(meaning, name_of(meaning)), meaning) for meaning in (*shown, "pipeline_bubble")]


class _Work(NamedTuple):
    """A block that many spans share: its passes as (kind, stage), its length, and the group of its rank."""

    passes: tuple[tuple[str, int | None], ...]
    ticks: int
    group: int


class _Rows:
    def __init__(self, timeline: Timeline, parts: StageParts) -> None:
        self.timeline, self.parts = timeline, parts
        self.numbers: dict[_Work, int] = {}

    @cached_property
    def tick(self) -> float:
        return (self.timeline.step_seconds or 1.0) / _TICKS

    def chart(self) -> TimelineChart:
        ranks = shown_ranks(self.timeline)
        lanes = [lane for row, rank in enumerate(ranks) for lane in self._lanes(row, rank)]
        return TimelineChart(
            tick=self.tick,
            ticks=_TICKS,
            rows=tuple(f"rank {self.timeline.rank_name(rank)}" for rank in ranks),
            order=_ORDER,
            works=tuple(self._work(work) for work in self.numbers),
            lanes=tuple(lanes),
        )

    @cached_property
    def _spans_of_rank(self) -> list[list[Span]]:
        found: list[list[Span]] = [[] for _ in range(self.timeline.pp)]
        for span in self.timeline.spans:
            found[span.rank].append(span)
        return found

    def _lanes(self, row: int, rank: int) -> list[Mapping[str, Any]]:
        sends = [span for span in self._spans_of_rank[rank] if span.lane == "pipeline send"]
        works = [span for span in self._spans_of_rank[rank] if span.lane != "pipeline send"]
        return [self._lane(row, kind, spans) for kind, spans in (("work", works), ("send", sends)) if spans]

    def _lane(self, row: int, kind: str, spans: list[Span]) -> Mapping[str, Any]:
        gaps, works, microbatches, others, end = [], [], [], [], 0
        for span in spans:
            start = round(span.start_seconds / self.tick)
            passes, both = self._passes(span)
            work = _Work(passes, round(span.end_seconds / self.tick) - start, self._group(span.rank))
            works.append(self.numbers.setdefault(work, len(self.numbers)))
            gaps.append(start - end)
            microbatches.append(both[0])
            others.append(both[-1])
            end = start + work.ticks
        return {
            "row": row,
            "kind": kind,
            "gaps": gaps,
            "works": works,
            "microbatches": microbatches,
            "others": others,
        }

    def _group(self, rank: int) -> int:
        return rank // (self.timeline.pp // self.timeline.groups)

    def _passes(self, span: Span) -> tuple[tuple[tuple[str, int | None], ...], list[int]]:
        """The (kind, stage) and the microbatch of each pass of a span; -1 for what has none."""
        if span.lane != "compute":
            return ((_LANES[span.lane], span.stage),), [-1 if span.microbatch is None else span.microbatch]
        actions = parse_work(span.name).passes
        return tuple((_KINDS[action.kind], action.stage) for action in actions), [
            action.microbatch for action in actions
        ]

    def _work(self, work: _Work) -> Mapping[str, Any]:
        passes = [
            {"kind": kind, "stage": stage, "parts": self._inside(kind, stage, work.group)}
            for kind, stage in work.passes
        ]
        return {"ticks": work.ticks, "passes": passes}

    def _inside(self, kind: str, stage: int | None, group: int) -> list[Mapping[str, Any]]:
        """The layers of a pass with seconds by cause, in the order in which the pass comes to them."""
        if not self.parts or stage is None or kind not in _ACTIONS:
            return []
        parts: list[Mapping[str, Any]] = [
            {
                "name": part.what,
                "layer": part.first if part.what == "layer" else None,
                "count": part.count,
                "recompute": "none" if kind == "forward" else part.recompute,
                "seconds": seconds,
            }
            for part in self.parts[group][stage]
            if (seconds := list(part.seconds(_ACTIONS[kind]).items()))
        ]
        return parts if kind == "forward" else parts[::-1]
