"""The unit of work of a pipeline rank: a pass of one microbatch through one stage, or two overlapped passes."""

import re
from enum import StrEnum
from typing import NamedTuple, Self

from shardwright.base import SpecError


class ActionKind(StrEnum):
    """The kind of pass, by torch's letters. A backward (`B`) is an input gradient (`I`) and a weight gradient (`W`)."""

    FORWARD = "F"
    BACKWARD = "B"
    INPUT_GRADIENT = "I"
    WEIGHT_GRADIENT = "W"

    # Enum's own hash is Python code, and the tens of thousands of actions of a schedule are looked up by hash.
    __hash__ = str.__hash__


_ACTION_TEXT = re.compile(rf"(\d+)({'|'.join(ActionKind)})(\d+)")
_OVERLAP_TEXT = re.compile(r"\(([^;]*);([^;]*)\)OVERLAP_F_B")


class Action(NamedTuple):
    """One pass, printed as `2F0` for stage 2, forward, microbatch 0."""

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
            kinds = ", ".join(f"{kind} ({kind.name.lower().replace('_', ' ')})" for kind in ActionKind)
            raise SpecError(
                f"'{text}' is not an action: give stage, kind and microbatch as in 2F0, with kind one of {kinds}"
            )
        return cls(int(match[1]), ActionKind(match[2]), int(match[3]))

    @property
    def passes(self) -> tuple["Action", ...]:
        """The action itself; an overlapped pair has two."""
        return (self,)

    def of_microbatch_zero(self) -> Self:
        """The same pass of microbatch 0. All microbatches take equally long, except for extras."""
        return type(self)(self.stage, self.kind, 0)


class Overlap(NamedTuple):
    """A forward and a backward that run at once, each computing while the other communicates: `(0F5;3B2)OVERLAP_F_B`.

    Both start when the messages of both have arrived, and both end together.
    """

    forward: Action
    backward: Action

    def __str__(self) -> str:
        return f"({self.forward};{self.backward})OVERLAP_F_B"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `(0F5;3B2)OVERLAP_F_B`.

        Raises:
            SpecError: the text is not a forward and a whole backward in this form.
        """
        if match := _OVERLAP_TEXT.fullmatch(text):
            forward, backward = map(Action.parse, match.groups())
            if (forward.kind, backward.kind) == (ActionKind.FORWARD, ActionKind.BACKWARD):
                return cls(forward, backward)
        raise SpecError(f"'{text}' is not an overlapped pair: give a forward and a backward as in (0F5;3B2)OVERLAP_F_B")

    @property
    def passes(self) -> tuple[Action, ...]:
        """The forward and the backward."""
        return (self.forward, self.backward)

    def of_microbatch_zero(self) -> Self:
        """The same pair with both microbatches 0. All microbatches take equally long, except for extras."""
        return self._replace(forward=self.forward.of_microbatch_zero(), backward=self.backward.of_microbatch_zero())


Work = Action | Overlap


def parse_work(text: str) -> Work:
    """Read an action, or an overlapped pair where the text starts with a bracket.

    Raises:
        SpecError: the text is neither.
    """
    return Overlap.parse(text) if text.startswith("(") else Action.parse(text)
