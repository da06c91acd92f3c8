"""Paths through a schedule that wait at one stage for all microbatches: what rankings and integer programs bound a step by."""

from typing import NamedTuple

from shardwright.specs import ScheduleName


class Arm(NamedTuple):
    """One path from the start of the first forward on a stage to the end of its last backward, beside one of each.

    `first_trip`, `trip`: whether the first microbatch's and a later one's round trip below the stage lie on it. `forwards`,
    `backwards`: passes of the stage itself on it.
    """

    first_trip: int
    trip: int
    forwards: int
    backwards: int


def waiting_arms(schedule: ScheduleName, pp: int, stage: int, microbatches: int) -> list[Arm]:
    """The paths that wait at `stage` of `pp`; each is real, so that the longest bounds the step from below.

    GPipe runs all forwards, then all backwards. 1F1B runs w = min(M - 1, P - 1 - s) forwards before it alternates. Its ramp
    up ends with these forwards or with the first round trip, its ramp down likewise. Where w = M - 1 no forward
    follows the first backward, and the two may not both be trips.
    """
    more = microbatches - 1
    if schedule == "gpipe":
        return [Arm(1, 0, more, more)]
    warm_up = min(more, pp - 1 - stage)
    if more == warm_up:
        return [Arm(0, 0, more, more), Arm(0, 1, more, 0), Arm(1, 0, 0, more)]
    return [Arm(first, later, more - first * warm_up, more - later * warm_up) for first in (0, 1) for later in (0, 1)]
