"""Discrete-event simulation of one step: schedule and stage costs in, timeline out. It is the truth of the model.

Events are ordered by (time, priority, sequence), so that a run repeats to the bit: at equal times a rank finishes what
it does before messages arrive, and what was announced first happens first.
"""

import heapq

import numpy as np
from numpy.typing import ArrayLike

from .errors import SpecError
from .schedule import Action, ActionKind, Schedule
from .schedule_validation import validate_schedule
from .stage_costs import StageCosts
from .timeline import Lane, MemoryCurve, Span, Timeline

_FINISH, _ARRIVE = 0, 1


# (seconds, priority, sequence, action): plain, as a step has tens of thousands
_Event = tuple[float, int, int, Action]


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
            to the end of its backward.
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
    return Timeline(schedule.pp, tuple(sorted(run.spans, key=lambda span: span.start_seconds)), memory.curves())


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
    """The state of one simulation: the event queue, what each rank is at, and the spans so far."""

    def __init__(self, schedule: Schedule, costs: StageCosts, memory: _Memory) -> None:
        self.schedule = schedule
        self.memory = memory
        self.costs = costs
        self.spans: list[Span] = []
        self.free_seconds = [0.0] * schedule.pp
        self._events: list[_Event] = []
        self._sequence = 0
        self._steps = [0] * schedule.pp
        self._busy = [False] * schedule.pp
        last = schedule.stages - 1
        # What reads no message counts as arrived.
        self._arrived = {a for a in schedule if a.stage == (0 if a.kind is ActionKind.FORWARD else last)}
        self._forward = costs.forward.tolist()
        self._backward = costs.backward.tolist()
        self._extra = costs.first_forward_extra.tolist()
        self._send = costs.send.tolist()

    def pipeline(self) -> None:
        for rank in range(self.schedule.pp):
            self._start_next(rank, 0.0)
        while self._events:
            now, priority, _, action = heapq.heappop(self._events)
            rank = self.schedule.rank_of_stage[action.stage]
            if priority == _FINISH:
                self._busy[rank] = False
                self._steps[rank] += 1
                self.free_seconds[rank] = now
                if action.kind is ActionKind.BACKWARD:
                    self.memory.change(rank, action.stage, -1, now)
                self._send_result(rank, action, now)
            else:
                self._arrived.add(action)
            self._start_next(rank, now)

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

    def _announce(self, seconds: float, priority: int, action: Action) -> None:
        heapq.heappush(self._events, (seconds, priority, self._sequence, action))
        self._sequence += 1

    def _start_next(self, rank: int, now: float) -> None:
        order = self.schedule.orders[rank]
        if self._busy[rank] or self._steps[rank] == len(order):
            return
        action = order[self._steps[rank]]
        if action not in self._arrived:
            return
        stage, kind, microbatch = action
        start = now
        if kind is ActionKind.FORWARD:
            self.memory.change(rank, stage, 1, now)
            if microbatch == 0:
                start = self._once(rank, "data parallel", f"gather {stage}", now, self._extra[stage])
        end = start + (self._forward if kind is ActionKind.FORWARD else self._backward)[stage]
        self.spans.append(Span(rank, "compute", str(action), start, end, stage, microbatch))
        self._busy[rank] = True
        self._announce(end, _FINISH, action)

    def _send_result(self, rank: int, action: Action, now: float) -> None:
        stage, kind, microbatch = action
        target = stage + 1 if kind is ActionKind.FORWARD else stage - 1
        if not 0 <= target < self.schedule.stages:
            return
        arrival = now + self._send[min(stage, target)]
        if arrival > now:
            self.spans.append(Span(rank, "pipeline send", f"send {action}", now, arrival, stage, microbatch))
        self._announce(arrival, _ARRIVE, Action(target, kind, microbatch))
