"""How far measuring has come."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """`done` of `known` points are measured; more become known where interpolation is worst. `now`: what is measured now.

    `seconds_left` of the budget.
    """

    done: int
    known: int
    seconds_left: float
    now: str


ShowProgress = Callable[[Progress], None]
