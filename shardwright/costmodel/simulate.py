"""Discrete-event simulation of one step: schedule and stage costs in, timeline out. It is the truth of the model.

Events are ordered by (time, priority, sequence), so that a run repeats to the bit: at equal times a rank finishes what
it does before messages arrive, and what was announced first happens first.
"""

from heapq import heappop, heappush
from operator import attrgetter

import numpy as np
from numpy.typing import ArrayLike

from .errors import SpecError
from .schedule import Schedule
from .schedule_graph import schedule_graph
from .schedule_validation import validate_schedule
from .stage_costs import StageCosts
from .timeline import Lane, MemoryCurve, Span, Timeline

_FINISH, _ARRIVE = 0, 1


# (seconds, priority, sequence, number of the work): plain, as a step has tens of thousands
_Event = tuple[float, int, int, int]


def simulate(
    schedule: Schedule,
    costs: StageCosts,
    *,
    activation_bytes: ArrayLike = 0.0,
    static_bytes: ArrayLike = 0.0,
) -> Timeline:
    """Run `schedule` once.

    Args:
        costs: of one plan (no batch axes), on as many stages and ranks as the schedule has.
        activation_bytes: [stages] or scalar, bytes that one microbatch holds on a stage from the start of its forward
            to the end of its backward, or of its weight gradient where the backward is split.
        static_bytes: [pp] or scalar, bytes that a rank holds all the time.

    Raises:
        SpecError: the schedule cannot run, or costs and schedule are not of the same size.
    """
    if costs.batch_shape or (costs.stages, costs.pp) != (schedule.stages, schedule.pp):
        raise SpecError(
            f"costs of {costs.stages} stages on pp {costs.pp} (batch axes {costs.batch_shape}) do not fit a schedule of {schedule.stages} stages on pp {schedule.pp}; give one plan's costs, index a batch first"
        )
    validate_schedule(schedule)
    memory = _Memory(schedule, activation_bytes, static_bytes)
    run = _Run(schedule, costs, memory)
    run.pipeline()
    run.reduce_and_update()
    return Timeline(schedule.pp, tuple(sorted(run.spans, key=attrgetter("start_seconds"))), memory.curves())


class _Memory:
    """Bytes held per rank, written down at every change."""

    def __init__(self, schedule: Schedule, activation_bytes: ArrayLike, static_bytes: ArrayLike) -> None:
        self._activation_bytes = np.broadcast_to(activation_bytes, (schedule.stages,)).tolist()
        self._seconds = [[0.0] for _ in range(schedule.pp)]
        self._bytes = [[held] for held in np.broadcast_to(static_bytes, (schedule.pp,)).tolist()]

    def change(self, rank: int, stage: int, microbatches: int, now: float) -> None:
        """`microbatches` more (or fewer, when negative) are alive on the stage from `now` on."""
        self._seconds[rank].append(now)
        self._bytes[rank].append(self._bytes[rank][-1] + microbatches * self._activation_bytes[stage])

    def curves(self) -> tuple[MemoryCurve, ...]:
        return tuple(
            MemoryCurve(np.array(seconds, dtype=np.float64), np.array(held, dtype=np.float64))
            for seconds, held in zip(self._seconds, self._bytes, strict=True)
        )


class _Run:
    """The state of one simulation: the event queue, what each piece of work still waits for, and the spans so far."""

    def __init__(self, schedule: Schedule, costs: StageCosts, memory: _Memory) -> None:
        self.schedule = schedule
        self.memory = memory
        self.costs = costs
        self.spans: list[Span] = []
        self.free_seconds = [0.0] * schedule.pp
        self._graph = schedule_graph(schedule)
        self._events: list[_Event] = []
        self._sequence = 0
        self._last = {numbers[-1] for numbers in self._graph.numbers}
        # Messages, and the rank's work before it.
        self._waits = [messages + 1 for messages in self._graph.message_counts]
        self._seconds = [float(costs.seconds(shape)) for shape in self._graph.shapes]
        self._extra = costs.first_forward_extra.tolist()
        self._send = costs.send.tolist()

    def pipeline(self) -> None:
        for numbers in self._graph.numbers:
            self._arrive(numbers[0], 0.0)
        while self._events:
            now, priority, _, number = heappop(self._events)
            if priority == _FINISH:
                self._finish(number, now)
            else:
                self._arrive(number, now)

    def reduce_and_update(self) -> None:
        """What follows the last backward: each rank's reductions one after the other, then all optimizers together."""
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
        """One thing less to wait for; after the last one the work starts."""
        self._waits[number] -= 1
        if self._waits[number]:
            return
        node = self._graph.nodes[number]
        start = now
        for stage in node.forwards:
            self.memory.change(node.rank, stage, 1, now)
            if node.microbatch == 0:
                start = self._once(node.rank, "data parallel", f"gather {stage}", now, self._extra[stage])
        end = start + self._seconds[node.shape]
        self.spans.append(Span(node.rank, "compute", node.name, start, end, node.stage, node.microbatch))
        self._announce(end, _FINISH, number)

    def _finish(self, number: int, now: float) -> None:
        node = self._graph.nodes[number]
        self.free_seconds[node.rank] = now
        for stage in node.freed:
            self.memory.change(node.rank, stage, -1, now)
        for message in node.messages:
            arrival = now + self._send[message.boundary]
            if arrival > now:
                action = message.action
                self.spans.append(
                    Span(node.rank, "pipeline send", message.name, now, arrival, action.stage, action.microbatch)
                )
            self._announce(arrival, _ARRIVE, message.receiver)
        if number not in self._last:
            self._arrive(number + 1, now)
