"""The pipeline schedule as data: the work of each pipeline rank, in order; printed, parsed, generated.

validation.py checks whether a schedule can run. simulation.py and step.py compute its cost.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import zip_longest
from typing import Self

import numpy as np
from numpy.typing import NDArray

from shardwright.base import SpecError
from shardwright.specs import ScheduleName, check_shape

from .action import Action, ActionKind, Overlap, Work, parse_work
from .orders import ORDERS


@dataclass(frozen=True)
class Schedule:
    """`orders[rank]`: the work of one pipeline rank, in this order.

    The placement of stages follows from the orders, so any placement (a loop, a V) is a schedule. Iterating yields
    every action, including those of overlapped pairs.
    """

    orders: tuple[tuple[Work, ...], ...]

    @cached_property
    def _hash(self) -> int:
        return hash(self.orders)

    def __hash__(self) -> int:
        """Return the generated hash, computed once: a schedule has tens of
        thousands of actions and is a key of caches."""
        return self._hash

    @property
    def pp(self) -> int:
        return len(self.orders)

    @cached_property
    def stages(self) -> int:
        return 1 + max((action.stage for action in self), default=-1)

    @cached_property
    def microbatches(self) -> int:
        return 1 + max((action.microbatch for action in self), default=-1)

    @cached_property
    def rank_of_stage(self) -> dict[int, int]:
        """The rank that holds each stage: the first one with an action of it."""
        ranks: dict[int, int] = {}
        for rank, order in enumerate(self.orders):
            for work in order:
                for action in work.passes:
                    ranks.setdefault(action.stage, rank)
        return ranks

    @cached_property
    def actions(self) -> frozenset[Action]:
        """Every action."""
        return frozenset(self)

    def source(self, action: Action) -> Action | None:
        """Return the action on the stage before or behind whose message this one waits for, or None where it reads no
        message. These are the neighbours, or where a microbatch leaves out stages the nearest that it passes.

        A gradient comes from a whole backward or an input gradient, whichever the next stage runs.
        """
        stage, kind, microbatch = action
        if kind is ActionKind.FORWARD:
            return Action(self._passed(stage, -1, microbatch), kind, microbatch) if stage else None
        if kind is ActionKind.WEIGHT_GRADIENT or stage + 1 == self.stages:
            return None
        behind = self._passed(stage, 1, microbatch)
        split = Action(behind, ActionKind.INPUT_GRADIENT, microbatch)
        return split if split in self.actions else Action(behind, ActionKind.BACKWARD, microbatch)

    def _passed(self, stage: int, way: int, microbatch: int) -> int:
        """The nearest stage in one way that `microbatch` passes; the next one where it passes none."""
        for other in range(stage + way, self.stages if way > 0 else -1, way):
            if Action(other, ActionKind.FORWARD, microbatch) in self.actions:
                return other
        return stage + way

    @cached_property
    def first_forwards(self) -> dict[int, Action]:
        """The first forward of each stage."""
        found: dict[int, Action] = {}
        for action in self:
            if action.kind is ActionKind.FORWARD:
                found.setdefault(action.stage, action)
        return found

    def __iter__(self) -> Iterator[Action]:
        for order in self.orders:
            for work in order:
                yield from work.passes

    def __str__(self) -> str:
        """Return one line for each rank, actions between commas. `parse` reads
        it, and torch's pipeline runtime as CSV."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(self.orders)
        return text.getvalue()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text of a schedule. Empty cells, which mean an idle slot in torch's files, are skipped.

        Raises:
            SpecError: a cell is not an action; the message names its rank and step. Nothing else is checked here.
        """
        return cls(tuple(_parse_order(rank, row) for rank, row in enumerate(csv.reader(io.StringIO(text)))))

    def grid(self, *, marked: tuple[int, int] | None = None, context: int = 5) -> str:
        """Return a table of steps (rows) and ranks (columns).

        `marked` = (rank, step) puts one cell in brackets and an arrow beside its row. Rows more than `context` steps
        away are left out.
        """
        rows = [
            [f"step {step}", *(str(work) if work else "" for work in row)]
            for step, row in enumerate(zip_longest(*self.orders))
        ]
        if marked is not None:
            rank, step = marked
            rows[step][1 + rank] = f"[{rows[step][1 + rank]}]"
            rows[step].append(f"<-- rank {rank}, step {step}")
            rows = rows[max(0, step - context) : step + context + 1]
        rows.insert(0, ["", *(f"rank {rank}" for rank in range(self.pp))])
        widths = [max(len(row[column]) for row in rows) for column in range(self.pp + 1)]
        return "\n".join("  ".join(map(str.ljust, row, [*widths, 0])).rstrip() for row in rows)


def _parse_order(rank: int, row: list[str]) -> tuple[Work, ...]:
    order = []
    for step, cell in enumerate(row):
        if cell.strip():
            try:
                order.append(parse_work(cell.strip()))
            except SpecError as error:
                raise SpecError(f"schedule, rank {rank}, step {step}: {error}") from None
    return tuple(order)


@lru_cache(maxsize=64)
def make_schedule(name: ScheduleName, pp: int, stages_per_rank: int, microbatches: int) -> Schedule:
    """Return the schedule of a plan. Actions are in the order of torch 2.13, where torch has the schedule.

    Raises:
        SpecError: the name is unknown, or the schedule does not exist for these numbers.
    """
    check_shape(name, pp, stages_per_rank * pp, microbatches)
    order = ORDERS[name]
    return Schedule(tuple(tuple(order(rank, pp, stages_per_rank, microbatches)) for rank in range(pp)))


@lru_cache(maxsize=64)
def overlap_counts(name: ScheduleName, pp: int, stages_per_rank: int, microbatches: int) -> NDArray[np.int64]:
    """[stages]: how many of each stage's forwards are overlapped with a backward.

    Raises:
        SpecError: no such schedule.
    """
    counts = np.zeros(pp * stages_per_rank, dtype=np.int64)
    if name == "dualpipe-v":
        for order in make_schedule(name, pp, stages_per_rank, microbatches).orders:
            for work in order:
                if isinstance(work, Overlap):
                    counts[work.forward.stage] += 1
    counts.setflags(write=False)
    return counts
