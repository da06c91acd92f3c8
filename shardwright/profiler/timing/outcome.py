"""The outcome of a piece of work on one rank, in a form that can be sent to the others."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from shardwright.base import SpecError

from .probe import UnavailableError

_ALLOCATOR_SAYS = "can't allocate memory"  # torch's CPU allocator raises a plain RuntimeError
Trouble = Literal["unavailable", "memory", "failed"]


@dataclass(frozen=True)
class Outcome:
    """The outcome of one order on one rank: `value`, or its trouble and a message."""

    value: Any = None
    trouble: Trouble | None = None
    words: str = ""


class TroubleError(Exception):
    """A piece of work failed on one rank or more, and therefore counts on none."""

    def __init__(self, trouble: Trouble, words: str) -> None:
        super().__init__(words)
        self.trouble: Trouble = trouble


def attempt(act: Callable[[], Any]) -> Outcome:
    """Return the result of `act`, or its failure. A bug in a probe costs one size, not the profile."""
    try:
        return Outcome(act())
    except (UnavailableError, SpecError) as error:
        return Outcome(trouble="unavailable", words=message_line(error))
    except (MemoryError, torch.OutOfMemoryError) as error:
        return Outcome(trouble="memory", words=message_line(error))
    except Exception as error:
        words = message_line(error)
        return Outcome(trouble="memory" if _ALLOCATOR_SAYS in words else "failed", words=words)


def message_line(error: BaseException) -> str:
    """Return the first line of its message, or its name where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
