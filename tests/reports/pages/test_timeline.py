"""The timeline as data: every span of the simulation, and the layers inside a pass."""

from collections.abc import Iterator
from typing import Any

import pytest

from shardwright.costmodel import PassPart
from shardwright.costmodel.pipeline.action import parse_work
from shardwright.costmodel.pipeline.schedule import make_schedule
from shardwright.costmodel.pipeline.simulation import simulate
from shardwright.costmodel.pipeline.stage_costs import StageCosts
from shardwright.reports.charts import TimelineChart
from shardwright.reports.pages import timeline as module
from shardwright.reports.pages.timeline import legend_of, timeline_chart
from shardwright.specs import ScheduleName, Timeline

COSTS = StageCosts(
    pp=4, forward=[1.0] * 4, backward=[2.0] * 4, weight_gradient=[0.9] * 4, first_forward_extra=[0.1] * 4, send=[0.05] * 3,
    reduce_tail=[0.5] * 4, optimizer=[0.2] * 4,
)  # fmt: skip
LAYER = PassPart(
    "layer", 3, 2, "full", {"compute": 0.4, "tensor_parallel": 0.1}, {"compute": 0.6, "recompute": 0.4}, 0.45
)
EMBEDDING = PassPart("embedding", 0, 1.0, "none", {"compute": 0.1}, {"compute": 0.2}, 0.1)
PARTS = [[[EMBEDDING, LAYER], [LAYER], [LAYER], [LAYER]]]


def stepped(schedule: ScheduleName = "1f1b", microbatches: int = 8) -> Timeline:
    return simulate(make_schedule(schedule, 4, 1, microbatches), COSTS)


def decoded(chart: TimelineChart) -> Iterator[tuple[int, str, float, float, tuple[Any, ...]]]:
    """Row, kind of lane, start and end in seconds, and the passes with their microbatches: what draw.js decodes."""
    for lane in chart.lanes:
        end = 0
        for gap, work, one, other in zip(
            lane["gaps"], lane["works"], lane["microbatches"], lane["others"], strict=True
        ):
            start = end + gap
            end = start + chart.works[work]["ticks"]
            passes = chart.works[work]["passes"]
            batches = (one, other)[: len(passes)]
            told = tuple((each["kind"], each["stage"], batch) for each, batch in zip(passes, batches, strict=True))
            yield lane["row"], lane["kind"], start * chart.tick, end * chart.tick, told


@pytest.mark.parametrize("schedule", ["1f1b", "gpipe", "zb-h1"])
def test_the_blocks_are_the_spans(schedule: ScheduleName) -> None:
    timeline = stepped(schedule)
    found = sorted(decoded(timeline_chart(timeline)))
    wanted = sorted(
        (span.rank, "send" if span.lane == "pipeline send" else "work", span.start_seconds, span.end_seconds)
        for span in timeline.spans
    )
    assert len(found) == len(wanted)
    for block, span in zip(found, wanted, strict=True):
        assert block[:2] == span[:2]
        assert block[2:4] == pytest.approx(span[2:], abs=2e-7 * timeline.step_seconds)
    passes = sorted(
        one
        for *_, told in found
        for one in told
        if one[0] in ("forward", "backward", "input_gradient", "weight_gradient")
    )
    actions = [action for span in timeline.spans if span.lane == "compute" for action in parse_work(span.name).passes]
    assert passes == sorted((action.kind.name.lower(), action.stage, action.microbatch) for action in actions)


def test_an_overlapped_pair_is_two_passes_with_a_microbatch_each() -> None:
    costs = StageCosts(pp=4, forward=[1.0] * 8, backward=[2.0] * 8, weight_gradient=[1.0] * 8)
    timeline = simulate(make_schedule("dualpipe-v", 4, 2, 12), costs)
    pairs = [told for *_, told in decoded(timeline_chart(timeline)) if len(told) == 2]
    spans = [parse_work(span.name).passes for span in timeline.spans if span.name.startswith("(")]
    assert pairs
    assert sorted(pairs) == sorted(tuple((a.kind.name.lower(), a.stage, a.microbatch) for a in pair) for pair in spans)


def parts_of(chart: TimelineChart, kind: str, stage: int) -> list[dict[str, Any]]:
    passes = (one for work in chart.works for one in work["passes"])
    return next(one["parts"] for one in passes if (one["kind"], one["stage"]) == (kind, stage))


def seconds_of(parts: list[dict[str, Any]]) -> float:
    return float(sum(part["count"] * sum(seconds for _, seconds in part["seconds"]) for part in parts))


def test_a_pass_holds_its_layers_by_cause() -> None:
    chart = timeline_chart(stepped(), PARTS)
    forward, backward = parts_of(chart, "forward", 0), parts_of(chart, "backward", 0)
    assert [part["name"] for part in forward] == ["embedding", "layer"]
    assert [part["name"] for part in backward] == ["layer", "embedding"]
    assert backward[0]["seconds"] == [("recompute", 0.4), ("compute", 0.6)]
    assert (backward[0]["recompute"], forward[1]["recompute"]) == ("full", "none")
    assert seconds_of(forward) == pytest.approx(0.1 + 2 * 0.5)
    assert seconds_of(backward) == pytest.approx(0.2 + 2 * 1.0)


def test_a_split_backward_is_its_two_gradients_together() -> None:
    chart = timeline_chart(stepped("zb-h1"), PARTS)
    first, second = (parts_of(chart, kind, 0) for kind in ("input_gradient", "weight_gradient"))
    assert seconds_of(second) == pytest.approx(0.1 + 2 * 0.45)
    assert seconds_of(first) + seconds_of(second) == pytest.approx(0.2 + 2 * 1.0)


def test_the_legend_names_what_is_there() -> None:
    legend = dict(legend_of(timeline_chart(stepped(), PARTS)))
    assert legend["forward, compute"] == "forward"
    assert legend["waits"] == "pipeline_bubble"
    assert {"recompute", "tensor parallel", "pipeline send", "optimizer"} <= set(legend)
    assert "weight gradient" not in legend


def test_of_very_many_blocks_some_ranks_are_shown_and_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    timeline = stepped(microbatches=16)
    monkeypatch.setattr(module, "_MOST_BLOCKS", len(timeline.spans) // 3)
    assert timeline_chart(timeline).rows == ("rank 0", "rank 3")
