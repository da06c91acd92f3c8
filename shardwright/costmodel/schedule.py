"""The pipeline schedule as data: what each pipeline rank computes, in order; printed, parsed, generated.

Whether a schedule can run is `schedule_validation`'s question, what it costs `simulate`'s and `pipeline`'s.
"""

import csv
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, lru_cache
from itertools import zip_longest
from typing import NamedTuple, Self, get_args

from .errors import SpecError, nearest
from .plan import ScheduleName


class ActionKind(StrEnum):
    """What is computed. Zero-bubble schedules add torch's `I` (input gradient) and `W` (weight gradient) here."""

    FORWARD = "F"
    BACKWARD = "B"


_ACTION_TEXT = re.compile(rf"(\d+)({'|'.join(ActionKind)})(\d+)")


class Action(NamedTuple):
    """One piece of compute: printed `2F0` for stage 2, forward, microbatch 0."""

    stage: int
    kind: ActionKind
    microbatch: int

    def __str__(self) -> str:
        return f"{self.stage}{self.kind}{self.microbatch}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `2F0`.

        Raises:
            SpecError: the text is not an action.
        """
        match = _ACTION_TEXT.fullmatch(text)
        if match is None or not text.isascii():
            kinds = ", ".join(f"{kind} ({kind.name.lower()})" for kind in ActionKind)
            raise SpecError(
                f"'{text}' is not an action: give stage, kind and microbatch as in 2F0, with kind one of {kinds}"
            )
        return cls(int(match[1]), ActionKind(match[2]), int(match[3]))

    def source(self, stages: int) -> "Action | None":
        """The action on a neighbouring stage whose message this one waits for; None where it reads no message."""
        if self.kind is ActionKind.FORWARD:
            return Action(self.stage - 1, self.kind, self.microbatch) if self.stage > 0 else None
        return Action(self.stage + 1, self.kind, self.microbatch) if self.stage + 1 < stages else None


@dataclass(frozen=True)
class Schedule:
    """`orders[rank]`: the actions of one pipeline rank, in the order in which it computes them.

    Which rank holds a stage is read off the orders, so that any placement (a loop, a V) is a schedule.
    """

    orders: tuple[tuple[Action, ...], ...]

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
        """The rank that holds each stage: the first one to mention it."""
        ranks: dict[int, int] = {}
        for rank, order in enumerate(self.orders):
            for action in order:
                ranks.setdefault(action.stage, rank)
        return ranks

    def __iter__(self) -> Iterator[Action]:
        for order in self.orders:
            yield from order

    def __str__(self) -> str:
        """One line a rank, actions between commas: what `parse` reads, and what torch's pipeline runtime reads as CSV."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(self.orders)
        return text.getvalue()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` of a schedule printed. Empty cells, which mean an idle slot in torch's files, are left out.

        Raises:
            SpecError: a cell is not an action; the line names its rank and step. Nothing else is checked here.
        """
        return cls(tuple(_parse_order(rank, row) for rank, row in enumerate(csv.reader(io.StringIO(text)))))

    def grid(self, *, marked: tuple[int, int] | None = None, context: int = 5) -> str:
        """A table of steps (rows) and ranks (columns).

        `marked` = (rank, step) puts one cell in brackets, points an arrow at it and leaves out what is more than
        `context` steps away.
        """
        rows = [
            [f"step {step}", *(str(action) if action else "" for action in row)]
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


def _parse_order(rank: int, row: list[str]) -> tuple[Action, ...]:
    order = []
    for step, cell in enumerate(row):
        if cell.strip():
            try:
                order.append(Action.parse(cell.strip()))
            except SpecError as error:
                raise SpecError(f"schedule, rank {rank}, step {step}: {error}") from None
    return tuple(order)


@lru_cache(maxsize=64)
def make_schedule(name: ScheduleName, pp: int, stages_per_rank: int, microbatches: int) -> Schedule:
    """The schedule of a plan: stage `i` on rank `i % pp`, actions in the order in which torch 2.13 runs them.

    Raises:
        SpecError: the name is unknown, or the schedule does not exist for these numbers.
    """
    check_shape(name, pp, stages_per_rank, microbatches)
    order = _ORDERS[name]
    return Schedule(tuple(tuple(order(rank, pp, stages_per_rank, microbatches)) for rank in range(pp)))


def check_shape(name: ScheduleName, pp: int, stages_per_rank: int, microbatches: int) -> None:
    """Refuse numbers for which no such schedule exists.

    Raises:
        SpecError: one line with what was given and what is allowed.
    """
    if name not in _ORDERS:
        allowed = get_args(ScheduleName)
        raise SpecError(f"schedule '{name}' is not known; allowed: {', '.join(allowed)}.{nearest(name, allowed)}")
    if min(pp, stages_per_rank, microbatches) < 1:
        raise SpecError(
            f"a schedule needs pp, stages per rank and microbatches of 1 or more, not {pp}, {stages_per_rank} and {microbatches}"
        )
    if name != "interleaved-1f1b":
        if stages_per_rank != 1:
            raise SpecError(f"{name} runs one stage on each rank, not {stages_per_rank}; interleaved-1f1b runs several")
    elif pp < 2 or stages_per_rank < 2:
        raise SpecError(
            f"interleaved-1f1b needs pp of 2 or more and 2 or more stages on each rank, not pp {pp} with {stages_per_rank}"
        )
    elif microbatches % pp:
        raise SpecError(
            f"interleaved-1f1b needs microbatches divisible by pp: {microbatches} by {pp}; the nearest is {max(1, round(microbatches / pp)) * pp}"
        )


def warm_up_forwards(name: ScheduleName, pp: int, stages_per_rank: int, microbatches: int, rank: int) -> int:
    """Forwards that `rank` runs before it starts to alternate one forward with one backward.

    GPipe: all of them. 1F1B: pp - 1 - rank, as many as there are ranks below. Interleaved: (stages_per_rank - 1) * pp +
    2 (pp - 1 - rank), of which the factor 2 leaves every message one action of slack (Narayanan et al. 2021, arXiv
    2104.04473, section 2.2, and Megatron-LM's schedule). Never more than there are.
    """
    forwards = microbatches * stages_per_rank
    if name == "gpipe":
        return forwards
    below = pp - 1 - rank
    return min(forwards, below if name == "1f1b" else (stages_per_rank - 1) * pp + 2 * below)


def _gpipe_order(rank: int, pp: int, stages_per_rank: int, microbatches: int) -> Iterator[Action]:
    """All forwards, then all backwards (Huang et al. 2019, arXiv 1811.06965)."""
    for kind in (ActionKind.FORWARD, ActionKind.BACKWARD):
        for microbatch in range(microbatches):
            yield Action(rank, kind, microbatch)


def _one_forward_one_backward_order(rank: int, pp: int, stages_per_rank: int, microbatches: int) -> Iterator[Action]:
    forwards = [Action(rank, ActionKind.FORWARD, microbatch) for microbatch in range(microbatches)]
    backwards = [Action(rank, ActionKind.BACKWARD, microbatch) for microbatch in range(microbatches)]
    return _alternate(forwards, backwards, warm_up_forwards("1f1b", pp, 1, microbatches, rank))


def _interleaved_order(rank: int, pp: int, stages_per_rank: int, microbatches: int) -> Iterator[Action]:
    """Depth first: pp microbatches through one chunk, then the same ones through the next; backwards from the last chunk."""
    forwards, backwards = [], []
    for first in range(0, microbatches, pp):
        for chunk in range(stages_per_rank):
            for microbatch in range(first, first + pp):
                forwards.append(Action(chunk * pp + rank, ActionKind.FORWARD, microbatch))
                mirrored = (stages_per_rank - 1 - chunk) * pp + rank
                backwards.append(Action(mirrored, ActionKind.BACKWARD, microbatch))
    warm_up = warm_up_forwards("interleaved-1f1b", pp, stages_per_rank, microbatches, rank)
    return _alternate(forwards, backwards, warm_up)


def _alternate(forwards: list[Action], backwards: list[Action], warm_up: int) -> Iterator[Action]:
    yield from forwards[:warm_up]
    for forward, backward in zip(forwards[warm_up:], backwards, strict=False):
        yield forward
        yield backward
    yield from backwards[len(forwards) - warm_up :]


# A new schedule is its name in plan.ScheduleName, a generator here, and its shape rule in check_shape.
_ORDERS: dict[ScheduleName, Callable[[int, int, int, int], Iterator[Action]]] = {
    "gpipe": _gpipe_order,
    "1f1b": _one_forward_one_backward_order,
    "interleaved-1f1b": _interleaved_order,
}
