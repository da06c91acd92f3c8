"""The progress of measuring."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """`done` of `known` points are measured. More are added where interpolation is worst. `now`: the current
    measurement.

    `seconds_left`: rest of the budget.
    """

    done: int
    known: int
    seconds_left: float
    now: str


ShowProgress = Callable[[Progress], None]
