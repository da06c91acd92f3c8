"""A recorded step beside the simulated one: both in one trace, and the spans that are off as a table."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.table import Table

from shardwright.base import SpecError
from shardwright.base import units as readable
from shardwright.costmodel.pipeline import parse_work
from shardwright.specs import Timeline

WHOLE = "shardwright step"
_ACTION = re.compile(r"\d+[FBIW]\d+", re.ASCII)
_FIRST_PROCESS = 1_000_000  # beyond the simulated ranks and the process numbers of Linux that torch uses
_PROCESSES = 10_000_000


class SpanKind(NamedTuple):
    """What is compared: passes of one kind on one stage, the update, or the step; `stage` is None for the last two."""

    what: str
    stage: int | None


class OffSpan(NamedTuple):
    """Mean seconds of one kind of span, simulated and measured, and how many of them a step of one rank has."""

    kind: SpanKind
    number: int
    simulated_seconds: float
    measured_seconds: float

    @property
    def off_seconds(self) -> float:
        """By how much the spans of this kind differ together, in a step of one rank."""
        return self.number * (self.measured_seconds - self.simulated_seconds)


def joined_trace(simulated: Mapping[str, Any], measured: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Return one trace with the simulated processes and those of each measured pipeline rank, all beginning with the step.

    Raises:
        SpecError: a measured trace has no step in it.
    """
    begins = {rank: _step(rank, trace)["ts"] for rank, trace in measured.items()}
    begin = min(begins.values(), default=0.0)
    events = list(simulated["traceEvents"])
    for rank, trace in measured.items():
        numbers: dict[Any, int] = {}
        for event in trace["traceEvents"]:
            place = numbers.setdefault(event.get("pid"), len(numbers))
            moved = {**event, "pid": _FIRST_PROCESS + rank * _PROCESSES + place}
            if "ts" in event and event["ph"] != "M":
                moved["ts"] = event["ts"] - begin
            if event["ph"] in "stf" and "id" in event:
                moved["id"] = f"measured-{rank}-{event['id']}"
            if event["ph"] == "M" and event.get("name") == "process_name":
                moved["args"] = {"name": f"measured, pipeline rank {rank}: {event['args'].get('name', '')}"}
            events.append(moved)
    return {**simulated, "traceEvents": events}


def off_spans(timeline: Timeline, measured: Mapping[int, Mapping[str, Any]]) -> list[OffSpan]:
    """Compare the passes, the update and the step of the measured ranks with those of the simulation, the largest difference first.

    A pass of a GPU is the time of its kernels, where the trace has that; else the time in which its host ran it.

    Raises:
        SpecError: a measured trace has no step in it.
    """
    mine: dict[SpanKind, list[float]] = {}
    for span in timeline.spans:
        if span.rank in measured and span.lane in ("compute", "optimizer"):
            mine.setdefault(_kind(span.name), []).append(span.seconds)
    theirs: dict[SpanKind, list[float]] = {}
    ranks: dict[SpanKind, set[int]] = {}
    for rank, trace in measured.items():
        for name, seconds in _labels(rank, trace):
            theirs.setdefault(_kind(name), []).append(seconds)
            ranks.setdefault(_kind(name), set()).add(rank)
    mine[SpanKind("step", None)] = [timeline.step_seconds]
    found = [
        OffSpan(kind, len(theirs[kind]) // len(ranks[kind]), sum(own) / len(own), sum(theirs[kind]) / len(theirs[kind]))
        for kind, own in mine.items()
        if kind in theirs
    ]
    return sorted(found, key=lambda one: -abs(one.off_seconds))


def off_table(spans: Sequence[OffSpan]) -> Table:
    """The spans that are off, the largest difference over the step first."""
    table = Table("span", title="Spans of one step, measured and simulated", title_justify="left")
    for column in ("count", "simulated", "measured", "simulated / measured - 1", "off by"):
        table.add_column(column, justify="right")
    for one in spans:
        where = "" if one.kind.stage is None else f" of stage {one.kind.stage}"
        share = readable.signed_share(one.simulated_seconds / one.measured_seconds - 1) if one.measured_seconds else ""
        off = f"{'+' if one.off_seconds >= 0 else '-'}{readable.seconds(abs(one.off_seconds))}"
        seconds = readable.seconds(one.simulated_seconds), readable.seconds(one.measured_seconds)
        table.add_row(f"{one.kind.what}{where}", readable.count(one.number), *seconds, share, off)
    return table


def _kind(name: str) -> SpanKind:
    if name in (WHOLE, "optimizer"):
        return SpanKind("step" if name == WHOLE else name, None)
    passes = parse_work(name).passes
    what = " and ".join(one.kind.name.lower().replace("_", " ") for one in passes)
    return SpanKind(what, passes[0].stage)


def _labels(rank: int, trace: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The name and seconds of every labelled span, of the device where it has any."""
    _step(rank, trace)
    found: dict[str, list[tuple[str, float]]] = {"user_annotation": [], "gpu_user_annotation": []}
    for event in trace["traceEvents"]:
        name, category = event.get("name", ""), event.get("cat")
        if event.get("ph") == "X" and category in found and (name in (WHOLE, "optimizer") or _ACTION.fullmatch(name)):
            found[category].append((name, event["dur"] / 1e6))
    on_device = {name for name, _ in found["gpu_user_annotation"]}
    return found["gpu_user_annotation"] + [one for one in found["user_annotation"] if one[0] not in on_device]


def _step(rank: int, trace: Mapping[str, Any]) -> Mapping[str, Any]:
    for event in trace.get("traceEvents", ()):
        if event.get("ph") == "X" and event.get("name") == WHOLE and event.get("cat") == "user_annotation":
            return dict(event)
    raise SpecError(f"the trace of pipeline rank {rank} has no span '{WHOLE}'; give one that run --trace wrote")
