"""Paths through a schedule that wait at one stage for all microbatches. Rankings
and integer programs bound a step by them."""

from typing import NamedTuple

from shardwright.specs import ScheduleName


class Arm(NamedTuple):
    """One path from the start of the first forward on a stage to the end of its last backward.

    The first forward and the last backward come on top. `first_trip`, `trip`: 1 if the round trip below the stage of
    the first or of a later microbatch lies on the path. `forwards`, `backwards`: number of other passes of the stage on
    it.
    """

    first_trip: int
    trip: int
    forwards: int
    backwards: int


def waiting_arms(schedule: ScheduleName, pp: int, stage: int, microbatches: int) -> list[Arm]:
    """Return the paths that wait at `stage` of `pp`. Each is a real path, so the longest bounds the step from below.

    GPipe runs all forwards, then all backwards. 1F1B runs w = min(M - 1, P - 1 - s) forwards before it alternates. Its
    ramp up ends with these forwards or with the first round trip; its ramp down is symmetric. Where M - 1 = w no
    forward follows the first backward, and the two ramps may not both be trips.
    """
    more = microbatches - 1
    if schedule == "gpipe":
        return [Arm(1, 0, more, more)]
    warm_up = min(more, pp - 1 - stage)
    if more == warm_up:
        return [Arm(0, 0, more, more), Arm(0, 1, more, 0), Arm(1, 0, 0, more)]
    return [Arm(first, later, more - first * warm_up, more - later * warm_up) for first in (0, 1) for later in (0, 1)]
