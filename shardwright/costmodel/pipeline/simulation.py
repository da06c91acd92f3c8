"""Discrete-event simulation of one step: schedule and stage costs in, timeline out. It is the reference of the cost
model.

Events are ordered by (time, priority, sequence), so a run repeats to the bit. At equal times a rank finishes its work
before messages arrive, and earlier announced events happen first.
"""

from heapq import heappop, heappush
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from shardwright.base import SpecError
from shardwright.specs import Lane, MemoryCurve, Span, Timeline

from .action import Action, ActionKind, Work
from .graph import schedule_graph
from .schedule import Schedule
from .stage_costs import StageCosts
from .validation import validate_schedule

_FINISH, _ARRIVE = 0, 1


# (seconds, priority, sequence, number of the work): a plain tuple, because a step has tens of thousands
_Event = tuple[float, int, int, int]


def simulate(
    schedule: Schedule,
    costs: StageCosts,
    *,
    activation_bytes: ArrayLike = 0.0,
    postponed_bytes: ArrayLike | None = None,
    static_bytes: ArrayLike = 0.0,
) -> Timeline:
    """Run `schedule` once.

    Args:
        costs: of one plan (no batch axes), on as many stages and ranks as the schedule has.
        activation_bytes: [stages] or scalar, bytes that one microbatch holds on a stage. They are held from the start
            of its forward to the end of its backward, or of its input gradient where the backward is split.
        postponed_bytes: [stages] or scalar, bytes that it holds from there to the end of its weight gradient; default:
            the same bytes.
        static_bytes: [pp] or scalar, bytes that a rank holds all the time.

    Raises:
        SpecError: the schedule cannot run, or costs and schedule differ in size.
    """
    if costs.batch_shape or (costs.stages, costs.pp) != (schedule.stages, schedule.pp):
        raise SpecError(
            f"costs of {costs.stages} stages on pp {costs.pp} (batch axes {costs.batch_shape}) do not fit a schedule of {schedule.stages} stages on pp {schedule.pp}; give one plan's costs, index a batch first"
        )
    validate_schedule(schedule)
    postponed_bytes = activation_bytes if postponed_bytes is None else postponed_bytes
    memory = _Memory(schedule, activation_bytes, postponed_bytes, static_bytes)
    run = _Run(schedule, costs, memory)
    run.pipeline()
    run.reduce_and_update()
    return Timeline(schedule.pp, tuple(sorted(run.spans, key=attrgetter("start_seconds"))), memory.curves())


class _Memory:
    """Bytes held per rank, recorded at every change."""

    def __init__(
        self, schedule: Schedule, activation_bytes: ArrayLike, postponed_bytes: ArrayLike, static_bytes: ArrayLike
    ) -> None:
        kept, postponed = (np.broadcast_to(size, schedule.stages) for size in (activation_bytes, postponed_bytes))
        self._changes: dict[ActionKind, list[float]] = {
            ActionKind.FORWARD: kept.tolist(),
            ActionKind.BACKWARD: (-kept).tolist(),
            ActionKind.INPUT_GRADIENT: (postponed - kept).tolist(),
            ActionKind.WEIGHT_GRADIENT: (-postponed).tolist(),
        }
        self._seconds = [[0.0] for _ in range(schedule.pp)]
        self._bytes = [[held] for held in np.broadcast_to(static_bytes, (schedule.pp,)).tolist()]

    def change_of(self, action: Action) -> float:
        """Return the bytes that a forward adds at its start, or that another pass adds (negative: frees) at its end."""
        return self._changes[action.kind][action.stage]

    def change(self, rank: int, more_bytes: float, now: float) -> None:
        self._seconds[rank].append(now)
        self._bytes[rank].append(self._bytes[rank][-1] + more_bytes)

    def curves(self) -> tuple[MemoryCurve, ...]:
        return tuple(
            MemoryCurve(np.array(seconds, dtype=np.float64), np.array(held, dtype=np.float64))
            for seconds, held in zip(self._seconds, self._bytes, strict=True)
        )


class _Shape(NamedTuple):
    """Properties of a work that all microbatches share: its duration, and the
    change of bytes at its start and its end."""

    seconds: float
    start_bytes: float
    end_bytes: float


class _Run:
    """The state of one simulation: the event queue, open dependencies of each piece of work, and the spans so far."""

    def __init__(self, schedule: Schedule, costs: StageCosts, memory: _Memory) -> None:
        self.schedule = schedule
        self.memory = memory
        self.costs = costs
        self.spans: list[Span] = []
        self.free_seconds = [0.0] * schedule.pp
        graph = schedule_graph(schedule)
        self._numbers = graph.numbers
        self._nodes = graph.nodes
        self._shapes = [self._shape(work) for work in graph.shapes]
        self._last = {numbers[-1] for numbers in graph.numbers}
        # Messages, and the rank's work before it.
        self._waits = [messages + 1 for messages in graph.message_counts]
        self._gather = {graph.number_of[action]: stage for stage, action in schedule.first_forwards.items()}
        self._extra = costs.first_forward_extra.tolist()
        self._send = costs.send.tolist()
        self._events: list[_Event] = []
        self._sequence = 0

    def _shape(self, work: Work) -> _Shape:
        started = [action for action in work.passes if action.kind is ActionKind.FORWARD]
        ended = [action for action in work.passes if action.kind is not ActionKind.FORWARD]
        start_bytes, end_bytes = (sum(map(self.memory.change_of, passes)) for passes in (started, ended))
        return _Shape(float(self.costs.seconds(work)), start_bytes, end_bytes)

    def pipeline(self) -> None:
        for numbers in self._numbers:
            self._arrive(numbers[0], 0.0)
        while self._events:
            now, priority, _, number = heappop(self._events)
            if priority == _FINISH:
                self._finish(number, now)
            else:
                self._arrive(number, now)

    def reduce_and_update(self) -> None:
        """Add the end of the step: each rank's reductions one after the other, then all optimizers together."""
        pp, tail, optimizer = self.schedule.pp, self.costs.reduce_tail.tolist(), self.costs.optimizer.tolist()
        end_seconds = list(self.free_seconds)
        for stage in reversed(range(self.schedule.stages)):
            rank = self.schedule.rank_of_stage[stage]
            end_seconds[rank] = self._once(rank, "data parallel", f"reduce {stage}", end_seconds[rank], tail[stage])
        start = max(end_seconds)
        for rank in range(pp):
            self._once(rank, "optimizer", "optimizer", start, optimizer[rank])

    def _once(self, rank: int, lane: Lane, name: str, start: float, seconds: float) -> float:
        if seconds:
            self.spans.append(Span(rank, lane, name, start, start + seconds))
        return start + seconds

    def _announce(self, seconds: float, priority: int, number: int) -> None:
        heappush(self._events, (seconds, priority, self._sequence, number))
        self._sequence += 1

    def _arrive(self, number: int, now: float) -> None:
        """Count down the dependencies of a piece of work; start it after the last one."""
        self._waits[number] -= 1
        if self._waits[number]:
            return
        rank, name, stage, microbatch, shape, _ = self._nodes[number]
        seconds, start_bytes, _ = self._shapes[shape]
        start = now
        if start_bytes:
            self.memory.change(rank, start_bytes, now)
        if number in self._gather:
            first = self._gather[number]
            start = self._once(rank, "data parallel", f"gather {first}", now, self._extra[first])
        end = start + seconds
        self.spans.append(Span(rank, "compute", name, start, end, stage, microbatch))
        self._announce(end, _FINISH, number)

    def _finish(self, number: int, now: float) -> None:
        rank, _, _, _, shape, messages = self._nodes[number]
        self.free_seconds[rank] = now
        end_bytes = self._shapes[shape].end_bytes
        if end_bytes:
            self.memory.change(rank, end_bytes, now)
        for name, stage, microbatch, boundary, receiver in messages:
            arrival = now + self._send[boundary]
            if arrival > now:
                self.spans.append(Span(rank, "pipeline send", name, now, arrival, stage, microbatch))
            self._announce(arrival, _ARRIVE, receiver)
        if number not in self._last:
            self._arrive(number + 1, now)
