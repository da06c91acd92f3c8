"""The simulated step as Chrome trace JSON, which ui.perfetto.dev and chrome://tracing open.

Format: "Trace Event Format", Google: event phases M (names), X (slices), s and f (flows), C (counters); times in microseconds.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from shardwright.costmodel import PassPart
from shardwright.costmodel.pipeline import ActionKind, parse_work
from shardwright.specs import Span, Timeline

STREAMS = ("compute", "compute, overlapped", "tp", "cp", "ep", "dp", "pp", "copy", "optimizer")
"""The lanes of a rank. Exposed communication and copies are on their own, as they are on a device."""

_PASSES = {
    ActionKind.FORWARD: "forward",
    ActionKind.BACKWARD: "backward",
    ActionKind.INPUT_GRADIENT: "backward",
    ActionKind.WEIGHT_GRADIENT: "weight gradient",
}
_CATEGORY_OF_CAUSE = {
    "compute": "compute",
    "recompute": "recompute",
    "data_parallel": "dp",
    "tensor_parallel": "tp",
    "context_parallel": "cp",
    "expert_parallel": "ep",
    "host_copy": "copy",
    "straggler": "straggler",
}

CATEGORIES = ("forward", "backward", "weight gradient", "pp", "optimizer", "layer", *_CATEGORY_OF_CAUSE.values())
_MOST_SLICES = 300_000
_NS = 1e9

StageParts = Sequence[Sequence[Sequence[PassPart]]]
_Key = tuple[int, bool, int]


class _Slice(NamedTuple):
    """A slice on a stream of a rank, in whole nanoseconds; Perfetto nests by these."""

    rank: int
    stream: str
    name: str
    category: str
    start_ns: int
    end_ns: int
    about: Mapping[str, Any]
    lane: int = 0


def trace_of(timeline: Timeline, parts: StageParts = (), about: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the trace: a process for each pipeline rank, a thread for each stream, flows from sends to the passes that wait for
    them, counters of memory, and `about` as metadata.

    `parts`, as `pass_parts` returns them, put layers into each pass; where that would be very many slices, runs of equal layers.
    A slice is named by its kind, so that equal ones are summed, and has its stage and microbatch as arguments.
    """
    inside, lanes = _Inside(timeline, parts), _send_lanes(timeline)
    events: list[dict[str, Any]] = []
    for rank in range(timeline.pp):
        events += _names(timeline, rank, max((lane for span, lane in lanes.items() if span.rank == rank), default=0))
    slices = [one for span in timeline.spans for one in inside.slices(span, lanes.get(span, 0))]
    events += [_slice_event(one) for one in sorted(slices, key=lambda one: (one.start_ns, -one.end_ns))]
    events += _flows(timeline, lanes)
    events += _counters(timeline)
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "metadata": {"step_seconds": timeline.step_seconds, **(about or {})},
    }


def _place(rank: int, stream: str, lane: int = 0) -> dict[str, int]:
    # From 1: Perfetto takes process and thread 0 for the idle task of a kernel trace. Further lanes of sends come last.
    return {"pid": 1 + rank, "tid": len(STREAMS) + lane if lane else 1 + STREAMS.index(stream)}


def _send_lanes(timeline: Timeline) -> dict[Span, int]:
    """For each send the first lane of its rank that is free: slices of a thread must not overlap, and messages may."""
    found: dict[Span, int] = {}
    ends: list[list[float]] = [[] for _ in range(timeline.pp)]
    for span in timeline.spans:
        if span.lane == "pipeline send":
            own = ends[span.rank]
            lane = next((place for place, end in enumerate(own) if end <= span.start_seconds), len(own))
            own[lane : lane + 1] = [span.end_seconds]
            found[span] = lane
    return found


def _names(timeline: Timeline, rank: int, more_lanes: int) -> Iterator[dict[str, Any]]:
    def named(kind: str, stream: str, lane: int = 0, **values: Any) -> dict[str, Any]:
        return {"ph": "M", "name": kind, **_place(rank, stream, lane), "args": values}

    yield named("process_name", "compute", name=f"pipeline rank {timeline.rank_name(rank)}")
    yield named("process_sort_index", "compute", sort_index=rank)
    for place, stream in enumerate(STREAMS):
        yield named("thread_name", stream, name=stream)
        yield named("thread_sort_index", stream, sort_index=place)
    for lane in range(1, 1 + more_lanes):
        yield named("thread_name", "pp", lane, name=f"pp {1 + lane}")


def _slice_event(one: _Slice) -> dict[str, Any]:
    times = {"ts": one.start_ns / 1000, "dur": (one.end_ns - one.start_ns) / 1000}
    return {
        "ph": "X",
        "name": one.name,
        "cat": one.category,
        **_place(one.rank, one.stream, one.lane),
        **times,
        "args": dict(one.about),
    }


class _Inside:
    """What a span becomes: itself, and for a pass its layers and what they spend their time on."""

    def __init__(self, timeline: Timeline, parts: StageParts) -> None:
        self.timeline, self.parts = timeline, parts
        passes = sum(span.lane == "compute" for span in timeline.spans)
        layers = max((sum(part.count for part in stage) for group in parts for stage in group), default=0.0)
        self.each_layer = passes * layers * 3 < _MOST_SLICES

    def slices(self, span: Span, lane: int) -> Iterator[_Slice]:
        start, end = round(span.start_seconds * _NS), round(span.end_seconds * _NS)
        if span.lane == "pipeline send":
            about = {"what": span.name, "microbatch": span.microbatch}
            yield _Slice(span.rank, "pp", "send", "pp", start, end, about, lane)
        elif span.lane != "compute":
            stream = "dp" if span.lane == "data parallel" else "optimizer"
            name, _, stage = span.name.partition(" ")
            yield _Slice(span.rank, stream, name, stream, start, end, {"stage": int(stage)} if stage else {})
        else:
            for place, action in enumerate(parse_work(span.name).passes):
                kind, stream = _PASSES[action.kind], STREAMS[place]
                about = {"stage": action.stage, "microbatch": action.microbatch}
                yield _Slice(span.rank, stream, kind, kind, start, end, about)
                yield from self._layers(span.rank, stream, action.kind, action.stage, (start, end))

    def _layers(
        self, rank: int, stream: str, kind: ActionKind, stage: int, window: tuple[int, int]
    ) -> Iterator[_Slice]:
        if not self.parts:
            return
        (start, end), group = window, rank // (self.timeline.pp // self.timeline.groups)
        pieces = [
            (part, first, count, part.seconds(kind))
            for part in self.parts[group][stage]
            for first, count in self._runs(part)
        ]
        whole = sum(count * sum(seconds.values()) for *_, count, seconds in pieces)
        scale = (end - start) / whole if whole else 0.0  # overlapped passes are shorter than their layers
        at = 0.0
        for part, first, count, seconds in pieces if kind is ActionKind.FORWARD else pieces[::-1]:
            begin, ended = round(at * scale), round((at + count * sum(seconds.values())) * scale)
            name = (
                part.what
                if part.what != "layer"
                else f"layer {first}"
                if count == 1
                else f"layers {first} to {first + int(count) - 1}"
            )
            if ended > begin:
                yield _Slice(rank, stream, name, "layer", start + begin, start + ended, {"recompute": part.recompute})
            for cause, each in seconds.items():
                begin, ended = round(at * scale), round((at + count * each) * scale)
                at += count * each
                category = _CATEGORY_OF_CAUSE[cause]
                where = category if category in STREAMS and category != "compute" else stream
                if ended > begin:
                    yield _Slice(rank, where, category, category, start + begin, start + ended, {"layer": name})

    def _runs(self, part: PassPart) -> list[tuple[int, float]]:
        """The first layer and the count of each slice: one for every layer, or one for all."""
        if part.what != "layer" or not self.each_layer:
            return [(part.first, part.count)]
        return [(part.first + place, 1.0) for place in range(int(part.count))]


def _flows(timeline: Timeline, lanes: Mapping[Span, int]) -> Iterator[dict[str, Any]]:
    """A flow from each send to the pass that waits for it: the forward of the next stage, or the gradient of the one before."""
    waiting: dict[_Key, tuple[Span, int]] = {}
    for span in timeline.spans:
        if span.lane == "compute":
            for place, action in enumerate(parse_work(span.name).passes):
                if action.kind is not ActionKind.WEIGHT_GRADIENT:
                    waiting[action.stage, action.kind is ActionKind.FORWARD, action.microbatch] = span, place
    number = 0
    for span in timeline.spans:
        if span.lane != "pipeline send":
            continue
        (action,) = parse_work(span.name.removeprefix("send ")).passes
        forward = action.kind is ActionKind.FORWARD
        found = waiting.get((action.stage + (1 if forward else -1), forward, action.microbatch))
        if found is not None:
            receiver, place = found
            number += 1
            both = {"name": "message", "cat": "pp", "id": number}
            yield {
                **both,
                "ph": "s",
                **_place(span.rank, "pp", lanes[span]),
                "ts": round(span.start_seconds * _NS) / 1000,
            }
            at = round(receiver.start_seconds * _NS) / 1000
            yield {**both, "ph": "f", "bp": "e", **_place(receiver.rank, STREAMS[place]), "ts": at}


def _counters(timeline: Timeline) -> Iterator[dict[str, Any]]:
    for rank, curve in enumerate(timeline.memory):
        for seconds, size in zip(curve.seconds.tolist(), curve.bytes.tolist(), strict=True):
            held = float(curve.bytes[0])
            counter = {
                "ph": "C",
                "name": "memory",
                "cat": "memory",
                **_place(rank, "compute"),
                "ts": round(seconds * _NS) / 1000,
            }
            yield {**counter, "args": {"held all the time": held, "activations in flight": size - held}}
