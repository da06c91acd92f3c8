"""A recorded step beside the simulated one: in one trace that a strict reader accepts, and as a table of what is off."""

from typing import Any

import pytest

from shardwright.base.errors import SpecError
from shardwright.costmodel.pipeline.schedule import make_schedule
from shardwright.costmodel.pipeline.simulation import simulate
from shardwright.costmodel.pipeline.stage_costs import StageCosts
from shardwright.reports.traces import SpanKind, joined_trace, off_spans, off_table, trace_of
from shardwright.specs import Timeline

COSTS = StageCosts(pp=2, forward=[0.1, 0.1], backward=[0.2, 0.2], send=[0.01], optimizer=[0.05, 0.05])
TIMELINE = simulate(make_schedule("1f1b", 2, 1, 4), COSTS)


def recorded(
    timeline: Timeline, rank: int, *, slower: float = 1.0, start: float = 5e9, device: bool = False
) -> dict[str, Any]:
    """What torch.profiler writes of a step like the simulated one: `slower` times as long in forwards, from `start` microseconds on."""
    events: list[dict[str, Any]] = [
        {"ph": "M", "name": "process_name", "pid": 77, "tid": 0, "args": {"name": "python"}}
    ]

    def label(name: str, begin: float, seconds: float, category: str = "user_annotation") -> None:
        times = {"ts": start + begin * 1e6, "dur": seconds * 1e6}
        events.append({"ph": "X", "cat": category, "name": name, "pid": 77, "tid": 77, **times})

    label("shardwright step", 0.0, timeline.step_seconds)
    label("ProfilerStep#1", 0.0, 1.0)
    for span in timeline.spans:
        if span.rank == rank and span.lane in ("compute", "optimizer"):
            seconds = span.seconds * (slower if "F" in span.name else 1.0)
            if device:
                label(span.name, span.start_seconds, seconds, "gpu_user_annotation")
            label(span.name, span.start_seconds, 1e-6 if device else seconds)
    events.append({"ph": "s", "cat": "ac2g", "name": "ac2g", "id": 3, "pid": 77, "tid": 77, "ts": start})
    return {"schemaVersion": 1, "traceEvents": events}


BOTH = {rank: recorded(TIMELINE, rank) for rank in range(2)}


def test_a_step_as_simulated_is_off_by_nothing() -> None:
    spans = off_spans(TIMELINE, BOTH)
    kinds = {(what, stage) for what in ("forward", "backward") for stage in range(2)} | {
        ("step", None),
        ("optimizer", None),
    }
    assert {one.kind for one in spans} == {SpanKind(*kind) for kind in kinds}
    assert max(abs(one.off_seconds) for one in spans) < 1e-9
    assert {one.number for one in spans if one.kind.what == "forward"} == {4}
    assert {one.number for one in spans if one.kind.stage is None} == {1}


@pytest.mark.parametrize("device", [False, True])
def test_what_is_off_most_stands_first(device: bool) -> None:
    """Forwards of stage 1 take 1.5 times as long; kernels of a GPU count, not the launches on the host."""
    measured = {0: recorded(TIMELINE, 0, device=device), 1: recorded(TIMELINE, 1, slower=1.5, device=device)}
    first = off_spans(TIMELINE, measured)[0]
    assert first.kind == SpanKind("forward", 1)
    assert (first.simulated_seconds, first.measured_seconds) == pytest.approx((0.1, 0.15))
    assert first.off_seconds == pytest.approx(4 * 0.05)
    table = off_table([first])
    assert [next(iter(column.cells)) for column in table.columns] == [
        "forward of stage 1",
        "4",
        "100 ms",
        "150 ms",
        "-33.3%",
        "+200 ms",
    ]


def test_both_are_in_one_trace_and_begin_together() -> None:
    simulated = trace_of(TIMELINE)
    events = joined_trace(simulated, BOTH)["traceEvents"]
    assert events[: len(simulated["traceEvents"])] == simulated["traceEvents"]
    theirs = events[len(simulated["traceEvents"]) :]
    assert not {event["pid"] for event in theirs} & {event["pid"] for event in simulated["traceEvents"]}
    assert [event["ts"] for event in theirs if event["name"] == "shardwright step"] == [0.0, 0.0]
    names = [event["args"]["name"] for event in theirs if event["name"] == "process_name"]
    assert names == ["measured, pipeline rank 0: python", "measured, pipeline rank 1: python"]
    assert {event["id"] for event in theirs if event["ph"] == "s"} == {"measured-0-3", "measured-1-3"}
    assert joined_trace(simulated, BOTH)["metadata"] == simulated["metadata"]


def test_ranks_that_begin_later_stay_later() -> None:
    late = {0: recorded(TIMELINE, 0), 1: recorded(TIMELINE, 1, start=5e9 + 40)}
    events = joined_trace(trace_of(TIMELINE), late)["traceEvents"]
    assert [event["ts"] for event in events if event["name"] == "shardwright step"] == [0.0, 40.0]


def test_a_trace_without_a_step_is_refused() -> None:
    with pytest.raises(
        SpecError, match="pipeline rank 1 has no span 'shardwright step'; give one that run --trace wrote"
    ):
        off_spans(TIMELINE, {0: BOTH[0], 1: {"traceEvents": []}})
