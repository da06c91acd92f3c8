"""The trace of the simulated step: well formed by a strict reader, and with every span, message and byte of the timeline."""

import json
from collections import defaultdict
from typing import Any

import pytest

from shardwright.catalog.cluster_file import load_cluster
from shardwright.catalog.huggingface.load import load_model
from shardwright.costmodel import pass_parts, simulate_plan
from shardwright.costmodel.pipeline.schedule import make_schedule
from shardwright.costmodel.pipeline.simulation import simulate
from shardwright.costmodel.pipeline.stage_costs import StageCosts
from shardwright.reports.traces import CATEGORIES, STREAMS, simulated, trace_of
from shardwright.specs import LayerRun, Mesh, Plan, ScheduleName, Stage, Timeline, TrainingSpec

LLAMA, H100, TRAINING = (
    load_model("llama-3.1-8b"),
    load_cluster("h100-sxm:16"),
    TrainingSpec(seq_len=4096, global_batch=32),
)
STAGES = (
    Stage(layers=(LayerRun(count=4, recompute="full", zero_stage=1), LayerRun(count=12, zero_stage=1))),
    Stage(layers=(LayerRun(count=16, zero_stage=1),)),
)
PLAN = Plan(mesh=Mesh(pp=2, dp_shard=4, tp=2), micro_batch=1, microbatches=8, stages=STAGES)
JOB = (LLAMA, H100, TRAINING, PLAN)
TIMELINE = simulate_plan(*JOB)
Event = dict[str, Any]


def events_of(trace: dict[str, Any]) -> list[Event]:
    """The events of a trace that a strict reader accepts.

    Every slice has its thread named and a known category and nests in those around it; every flow starts inside a slice and
    ends later, at the start of another rank's; counters go forward in time.
    """
    events: list[Event] = json.loads(json.dumps(trace, allow_nan=False))["traceEvents"]
    named = {(event["pid"], event["tid"]) for event in events if event["name"] == "thread_name"}
    slices: dict[tuple[int, int], list[Event]] = defaultdict(list)
    counters: dict[int, list[float]] = defaultdict(list)
    flows: dict[int, list[Event]] = defaultdict(list)
    for event in events:
        assert event["ph"] in ("M", "X", "s", "f", "C"), event
        thread = (event["pid"], event["tid"])
        assert thread in named
        if event["ph"] == "X":
            assert event["dur"] > 0 <= event["ts"]
            assert event["cat"] in CATEGORIES, event
            slices[thread].append(event)
        elif event["ph"] == "C":
            assert all(isinstance(value, float) for value in event["args"].values())
            counters[event["pid"]].append(event["ts"])
        elif event["ph"] in "sf":
            flows[event["id"]].append(event)
    for thread, own in slices.items():
        check_nesting(thread, own)
    for times in counters.values():
        assert times == sorted(times)
    for pair in flows.values():
        start, finish = pair
        assert (start["ph"], finish["ph"], finish["bp"]) == ("s", "f", "e")
        assert start["ts"] <= finish["ts"]
        assert start["pid"] != finish["pid"]
        for end in pair:
            around = slices[end["pid"], end["tid"]]
            assert any(one["ts"] <= end["ts"] <= one["ts"] + one["dur"] for one in around), end
    return events


def check_nesting(thread: tuple[int, int], slices: list[Event]) -> None:
    """Slices of a thread lie one in another or apart, in nanoseconds, as Perfetto sees them."""
    stack: list[int] = []
    for one in sorted(slices, key=lambda event: (round(event["ts"] * 1000), -round(event["dur"] * 1000))):
        start = round(one["ts"] * 1000)
        end = start + round(one["dur"] * 1000)
        while stack and stack[-1] <= start:
            stack.pop()
        assert not stack or end <= stack[-1], (thread, one)
        stack.append(end)


def of(events: list[Event], **wanted: object) -> list[Event]:
    return [event for event in events if all(event.get(key) == value for key, value in wanted.items())]


@pytest.fixture(scope="module")
def events() -> list[Event]:
    return events_of(trace_of(TIMELINE, pass_parts(*JOB), {"model": "m"}))


def test_every_span_is_a_slice_of_its_rank_and_stream(events: list[Event]) -> None:
    for category, lane, stream in (("pp", "pipeline send", "pp"), ("optimizer", "optimizer", "optimizer")):
        spans = [span for span in TIMELINE.spans if span.lane == lane]
        found = of(events, ph="X", cat=category)
        assert sorted((one["pid"], one["tid"], one["ts"]) for one in found) == [
            (span.rank + 1, STREAMS.index(stream) + 1, pytest.approx(span.start_seconds * 1e6, abs=1e-3))
            for span in sorted(spans, key=lambda span: (span.rank, span.start_seconds))
        ]
    forward = [span for span in TIMELINE.spans if span.lane == "compute" and "F" in span.name]
    assert sorted((one["args"]["stage"], one["args"]["microbatch"]) for one in of(events, cat="forward")) == sorted(
        (span.stage, span.microbatch) for span in forward
    )
    assert {one["name"] for one in of(events, ph="X", cat="forward")} == {"forward"}


def test_a_pass_holds_its_layers_and_they_add_up(events: list[Event]) -> None:
    """One forward of stage 0: an embedding and 16 layers, which fill it; exchanges are on the stream of their axis."""
    (whole,) = [one for one in of(events, cat="forward", pid=1) if one["args"]["microbatch"] == 3]
    within = [
        one
        for one in of(events, pid=1, ph="X")
        if whole["ts"] <= one["ts"] < whole["ts"] + whole["dur"] and one is not whole
    ]
    layers = [one for one in within if one["cat"] == "layer"]
    assert [one["name"] for one in layers] == ["embedding", *(f"layer {number}" for number in range(16))]
    assert sum(one["dur"] for one in layers) == pytest.approx(whole["dur"], abs=1e-2)
    pieces = [one for one in within if one["cat"] in ("compute", "tp")]
    assert sum(one["dur"] for one in pieces) == pytest.approx(whole["dur"], abs=0.1)
    assert {one["tid"] for one in pieces if one["cat"] == "tp"} == {STREAMS.index("tp") + 1}


def test_repeated_work_is_named_and_lies_in_its_layer(events: list[Event]) -> None:
    again = of(events, ph="X", cat="recompute")
    assert {one["pid"] for one in again} == {1}
    assert {one["args"]["layer"] for one in again} == {f"layer {number}" for number in range(4)}
    assert len(again) == 4 * PLAN.microbatches


def test_a_flow_leads_from_every_send_to_the_pass_that_waits_for_it(events: list[Event]) -> None:
    assert (
        len(of(events, ph="s"))
        == len(of(events, ph="f"))
        == len(of(events, ph="X", name="send"))
        == 2 * PLAN.microbatches
    )
    starts = {(one["pid"], one["tid"], one["ts"]) for one in events if one["ph"] == "X"}
    assert all((one["pid"], one["tid"], one["ts"]) in starts for one in of(events, ph="f"))


def test_memory_and_metadata(events: list[Event]) -> None:
    peaks = [max(sum(one["args"].values()) for one in of(events, ph="C", pid=rank + 1)) for rank in range(2)]
    assert peaks == pytest.approx([curve.peak_bytes for curve in TIMELINE.memory])
    trace = trace_of(TIMELINE, (), {"model": "m"})
    assert trace["metadata"] == {"step_seconds": TIMELINE.step_seconds, "model": "m"}


@pytest.mark.parametrize("schedule", ["gpipe", "interleaved-1f1b", "zb-h1", "zb-v", "dualpipe-v"])
def test_every_schedule_gives_a_trace_in_good_order(schedule: ScheduleName) -> None:
    chunks = 2 if schedule in ("interleaved-1f1b", "zb-v", "dualpipe-v") else 1
    costs = StageCosts(
        pp=4, forward=[1.0] * 4 * chunks, backward=[2.1] * 4 * chunks, weight_gradient=[0.9] * 4 * chunks,
        overlap_saving=0.2 if schedule == "dualpipe-v" else 0.0, send=[0.05] * 3 + [0.0 if schedule in ("zb-v", "dualpipe-v") else 0.05] + [0.05] * 3 if chunks > 1 else [0.05] * 3, optimizer=[0.2] * 4,
    )  # fmt: skip
    events = events_of(trace_of(simulate(make_schedule(schedule, 4, chunks, 16), costs)))
    assert len(of(events, ph="s")) == len(of(events, ph="X", name="send")) > 0


def test_messages_that_take_longer_than_a_pass_have_lanes_of_their_own() -> None:
    costs = StageCosts(pp=2, forward=[1.0] * 2, backward=[2.0] * 2, send=[5.0])
    trace = trace_of(simulate(make_schedule("gpipe", 2, 1, 8), costs))
    events = events_of(trace)
    lanes = {one["args"]["name"] for one in events if one["name"] == "thread_name"} - set(STREAMS)
    assert lanes >= {"pp 2", "pp 3", "pp 4", "pp 5"}
    assert len(of(events, ph="s")) == 16


def shifted(trace: dict[str, Any]) -> None:
    slices = [event for event in trace["traceEvents"] if event["ph"] == "X" and event["cat"] == "forward"]
    slices[1]["ts"] -= slices[0]["dur"] / 2


def without_an_end(trace: dict[str, Any]) -> None:
    trace["traceEvents"].remove(next(event for event in trace["traceEvents"] if event["ph"] == "f"))


def unnamed(trace: dict[str, Any]) -> None:
    trace["traceEvents"] = [event for event in trace["traceEvents"] if event["name"] != "thread_name"]


def backwards(trace: dict[str, Any]) -> None:
    next(event for event in trace["traceEvents"] if event["ph"] == "f")["ts"] = -1.0


@pytest.mark.parametrize("fault", [shifted, without_an_end, unnamed, backwards])
def test_the_reader_refuses_a_trace_with_a_fault(fault: Any) -> None:
    """Control: each fault is one that a viewer would show wrong or drop."""
    trace = trace_of(TIMELINE)
    events_of(trace)
    fault(trace)
    with pytest.raises((AssertionError, ValueError)):
        events_of(trace)


def test_of_very_many_layers_runs_of_equal_ones_are_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated, "_MOST_SLICES", 100)
    events = events_of(trace_of(TIMELINE, pass_parts(*JOB)))
    names = {one["name"] for one in of(events, ph="X", cat="layer", pid=1)}
    assert names == {"embedding", "layers 0 to 3", "layers 4 to 15"}


def test_an_empty_timeline_is_a_trace() -> None:
    assert [event["ph"] for event in events_of(trace_of(Timeline(pp=1, spans=(), memory=())))] == ["M"] * (
        2 + 2 * len(STREAMS)
    )
