"""Orders that repeat one building block: V-Half and V-Min (Qi et al. 2024, arXiv 2405.15362).

A block has a slot for each pass of one microbatch. The block of the next microbatch starts a period later. The time from
a rank's forward to its weight gradient, counted in periods, is the number of microbatches that the rank holds. The order
of a rank is the order of its slots. Only where the pipeline fills and drains may a pass run earlier.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from shardwright.specs import ScheduleName

from .action import Action, ActionKind

_PERIOD = 6  # slots: the forward, input gradient and weight gradient of a rank's two stages
_ALIVE = {ActionKind.FORWARD: 1, ActionKind.INPUT_GRADIENT: 0, ActionKind.WEIGHT_GRADIENT: -1}


def repeated_order(name: ScheduleName, rank: int, pp: int, stages_per_rank: int, microbatches: int) -> Iterator[Action]:
    """V-Half or V-Min: the order of a rank with stages `rank` and 2 pp - 1 - `rank`.

    No rank ever holds more than (pp + 2) // 2 microbatches of both stages (V-Half) or (pp + 4) // 3 (V-Min). 1F1B's first
    rank holds pp (the authors' table: huggingface.co/spaces/sail/pipeline-parallelism-with-controllable-memory).
    """
    return iter(_orders(name, pp, microbatches)[rank])


@dataclass(frozen=True)
class _Block:
    """Slots of one microbatch's passes on `pp` ranks in a V.

    Attributes:
        down, up: slots from a pass to the same pass on the next rank, on the way down the ranks and up again.
        turn: idle slots before the gradients turn upwards at the last rank.
        loss: idle slots between the last forward and the first input gradient.
    """

    pp: int
    down: int
    up: int
    turn: int
    loss: int

    def forward(self, stage: int) -> int:
        if stage < self.pp:
            return self.down * stage
        return self.down * (self.pp - 1) + 1 + self.up * (stage - self.pp)

    def input_gradient(self, stage: int) -> int:
        first, last = self.forward(2 * self.pp - 1) + 1 + self.loss, 2 * self.pp - 1
        if stage >= self.pp:
            return first + self.down * (last - stage)
        return first + self.down * (self.pp - 1) + 1 + self.turn + self.up * (self.pp - 1 - stage)


def _block(name: ScheduleName, pp: int) -> _Block:
    """Return the block of V-Half or V-Min, with the slots of the authors' code (`zbv_greedy.py` in
    github.com/sail-sg/zero-bubble-pipeline-parallelism).

    `loss` keeps passes of different microbatches apart: no two slots of a rank may be equal modulo the period.
    """
    if name == "v-half":
        return _Block(pp, down=2, up=1, turn=1, loss=3 if pp % 2 == 0 else 0)
    return _Block(pp, down=1, up=1, turn=0, loss=2 if pp % 3 == 0 else 0)


# (slot, pass), by slot
_Plan = list[tuple[int, Action]]


def _plan(block: _Block, rank: int, microbatches: int) -> _Plan:
    """Return a rank's passes in the slots of its blocks. Weight gradients take the next idle slots, oldest first."""
    taken: dict[int, Action] = {}
    for stage in (rank, 2 * block.pp - 1 - rank):
        for microbatch in range(microbatches):
            start = _PERIOD * microbatch
            taken[start + block.forward(stage)] = Action(stage, ActionKind.FORWARD, microbatch)
            taken[start + block.input_gradient(stage)] = Action(stage, ActionKind.INPUT_GRADIENT, microbatch)
    plan: _Plan = []
    waiting: deque[Action] = deque()
    slot, last = 0, max(taken)
    while slot <= last or waiting:
        if slot in taken:
            plan.append((slot, taken[slot]))
            if taken[slot].kind is ActionKind.INPUT_GRADIENT:
                waiting.append(taken[slot]._replace(kind=ActionKind.WEIGHT_GRADIENT))
        elif waiting:
            plan.append((slot, waiting.popleft()))
        slot += 1
    return plan


@lru_cache(maxsize=8)
def _orders(name: ScheduleName, pp: int, microbatches: int) -> tuple[tuple[Action, ...], ...]:
    """Per rank, its order."""
    block = _block(name, pp)
    return _Squeeze(block, [_plan(block, rank, microbatches) for rank in range(pp)], microbatches).run()


class _Pass(NamedTuple):
    """A pass of a plan, which may run once `source[stage]` microbatches, more than its own number, have passed.

    Attributes:
        change: by how much the pass changes the number of microbatches that its rank holds.
    """

    slot: int
    microbatch: int
    change: int
    source: list[int]
    stage: int
    action: Action


class _Squeeze:
    """Runs the plans of all ranks, one pass a slot, each as soon as its rank can.

    The paper squeezes out idle slots and reorders passes where the pipeline fills and drains. In between a rank keeps to
    its plan. A forward may run earlier only if the rank then never holds more than its plan does.
    """

    def __init__(self, block: _Block, plans: list[_Plan], microbatches: int) -> None:
        self._last = 2 * block.pp - 1
        self._most = max(map(_most_alive, plans))
        self._alive = [0] * block.pp
        # Of each kind and stage, the microbatches that have passed: a stage takes them in order.
        self._passed = {kind: [0] * (2 * block.pp) for kind in _ALIVE}
        self._entered = [microbatches]
        self._plans = [[self._waiting(slot, action) for slot, action in plan] for plan in plans]
        # The pipeline is full once the first microbatch is back, and drains once the last one has entered.
        self._full = block.input_gradient(0)
        self._drains = max(self._full, _PERIOD * (microbatches - 1))

    def _waiting(self, slot: int, action: Action) -> _Pass:
        stage, kind, microbatch = action
        source, before = self._passed[kind], stage + 1
        if kind is ActionKind.FORWARD:
            source, before = (source, stage - 1) if stage else (self._entered, 0)
        elif kind is ActionKind.WEIGHT_GRADIENT:
            source, before = self._passed[ActionKind.INPUT_GRADIENT], stage
        elif stage == self._last:
            source, before = self._passed[ActionKind.FORWARD], stage
        return _Pass(slot, microbatch, _ALIVE[kind], source, before, action)

    def run(self) -> tuple[tuple[Action, ...], ...]:
        orders: list[list[Action]] = [[] for _ in self._plans]
        changed = set(range(len(orders)))  # ranks that ran a pass, or whose neighbours did: the others wait as before
        while any(self._plans):
            now = [(rank, index) for rank in changed if (index := self._next(rank)) is not None]
            assert now, "a pass waits for one that never runs"
            for rank, index in now:
                done = self._plans[rank].pop(index)
                orders[rank].append(done.action)
                self._alive[rank] += done.change
                self._passed[done.action.kind][done.action.stage] += 1
            near = {other for rank, _ in now for other in (rank - 1, rank, rank + 1)}
            changed = near.intersection(range(len(orders)))
        return tuple(map(tuple, orders))

    def _next(self, rank: int) -> int | None:
        """Return which pass of its plan the rank runs in this slot, or None where it has to wait."""
        plan, alive, most = self._plans[rank], self._alive[rank], self._alive[rank]
        if not plan:
            return None
        drains, idle_only = plan[0].slot > self._drains, None
        for index, (slot, microbatch, change, source, stage, action) in enumerate(plan):
            if index and (self._full <= slot <= self._drains or drains != (slot > self._drains)):
                break
            if source[stage] > microbatch and (change <= 0 or most < self._most):
                if not (drains and action.kind is ActionKind.WEIGHT_GRADIENT):
                    return index
                idle_only = index if idle_only is None else idle_only
            alive += change
            if alive > most:  # a call of max() would double the time of a scan
                most = alive
        return idle_only


def _most_alive(plan: _Plan) -> int:
    alive = most = 0
    for _, action in plan:
        alive += _ALIVE[action.kind]
        most = max(most, alive)
    return most
