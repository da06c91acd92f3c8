"""Seconds of one step from schedule and stage costs, vectorised over plans, and their parts."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from shardwright.base import FloatArray
from shardwright.specs import ScheduleName, by_rank, check_shape, visits

from .longest_path import longest_path_ends
from .recurrence import gpipe_ends, interleaved_ends, one_forward_one_backward_ends
from .schedule import overlap_counts
from .stage_costs import StageCosts

__all__ = ["StageCosts", "StepParts", "step_parts", "step_seconds"]

_ROUNDING = 1e-12  # relative, of a step
_ENDS: dict[ScheduleName, Callable[[StageCosts, int], FloatArray]] = {
    "gpipe": gpipe_ends,
    "1f1b": one_forward_one_backward_ends,
    "interleaved-1f1b": interleaved_ends,
    "breadth-first": partial(longest_path_ends, "breadth-first"),
    "zb-h1": partial(longest_path_ends, "zb-h1"),
    "zb-2p": partial(longest_path_ends, "zb-2p"),
    "zb-v": partial(longest_path_ends, "zb-v"),
    "v-half": partial(longest_path_ends, "v-half"),
    "v-min": partial(longest_path_ends, "v-min"),
    "dualpipe-v": partial(longest_path_ends, "dualpipe-v"),
    "skippipe-25": partial(longest_path_ends, "skippipe-25"),
}


def step_seconds(schedule: ScheduleName, costs: StageCosts, microbatches: int) -> FloatArray:
    """Return the seconds of one optimizer step, [...] over the batch axes of `costs`.

    The step is the pipeline's longest path (recurrence.py), then the exposed reductions of each rank. When the last
    rank has reduced, the slowest optimizer follows: max_r (end_r + tail_r) + max_r optimizer_r. This equals the result
    of `simulate`, up to rounding.

    Raises:
        SpecError: no such schedule for this number of ranks, stages and microbatches.
    """
    check_shape(schedule, costs.pp, costs.stages, microbatches)
    ends = _ENDS[schedule](costs, microbatches)
    reduced = (ends + _per_rank(schedule, costs, costs.reduce_tail)).max(axis=-1)
    return np.asarray(reduced + costs.optimizer.max(axis=-1))


def _per_rank(schedule: ScheduleName, costs: StageCosts, per_stage: FloatArray) -> FloatArray:
    """[..., pp]: sum of [..., stages] over the stages of each rank."""
    return np.asarray(by_rank(schedule, costs.pp, per_stage).sum(axis=-2))


@dataclass(frozen=True, eq=False)
class StepParts:
    """The parts of a step for the rank with the most work of its own, below which no schedule can go; [...] each.

    Attributes:
        rank: the rank with the most seconds of compute, exposed gather and exposed reduction together.
        compute_seconds: its forwards and backwards, less `overlap_seconds`.
        gather_seconds: its first-forward extras.
        reduce_seconds: its exposed reductions.
        transfer_seconds: time by which the step would be shorter if messages between stages took no time.
        bubble_seconds: the rest. The rank waits for other stages, which fill, drain or are temporarily slower.
        optimizer_seconds: of the slowest rank, as all wait for it.
        overlap_seconds: time saved by overlapping passes; not part of the step.
    """

    rank: NDArray[np.intp]
    compute_seconds: FloatArray
    gather_seconds: FloatArray
    reduce_seconds: FloatArray
    transfer_seconds: FloatArray
    bubble_seconds: FloatArray
    optimizer_seconds: FloatArray
    overlap_seconds: FloatArray

    @property
    def total_seconds(self) -> FloatArray:
        work = self.compute_seconds + self.gather_seconds + self.reduce_seconds
        return work + self.transfer_seconds + self.bubble_seconds + self.optimizer_seconds


def step_parts(schedule: ScheduleName, costs: StageCosts, microbatches: int) -> StepParts:
    """Return the parts of `step_seconds`; they add up to it.

    Raises:
        SpecError: no such schedule for this number of ranks, stages and microbatches.
    """
    total = step_seconds(schedule, costs, microbatches)
    without_sends = step_seconds(schedule, costs.without_sends(), microbatches)
    overlaps = overlap_counts(schedule, costs.pp, costs.stages_per_rank, microbatches)
    overlap = _per_rank(schedule, costs, overlaps * costs.overlap_saving)
    passed = visits(schedule, costs.pp, costs.stages, microbatches)
    compute = _per_rank(schedule, costs, passed * (costs.forward + costs.backward)) - overlap
    gather = _per_rank(schedule, costs, costs.first_forward_extra)
    reduce = _per_rank(schedule, costs, costs.reduce_tail)
    rank = np.argmax(compute + gather + reduce, axis=-1)

    def of_rank(per_rank: FloatArray) -> FloatArray:
        return np.take_along_axis(per_rank, rank[..., None], axis=-1)[..., 0]

    optimizer = costs.optimizer.max(axis=-1)
    work = of_rank(compute) + of_rank(gather) + of_rank(reduce)
    # Only rounding could make either negative. A rest of the size of rounding is not a bubble.
    transfer = np.maximum(0.0, total - without_sends)
    bubble = total - transfer - work - optimizer
    bubble = np.where(bubble > _ROUNDING * total, bubble, 0.0)
    return StepParts(
        rank=rank,
        compute_seconds=of_rank(compute),
        gather_seconds=of_rank(gather),
        reduce_seconds=of_rank(reduce),
        transfer_seconds=transfer,
        bubble_seconds=bubble,
        optimizer_seconds=optimizer,
        overlap_seconds=of_rank(overlap),
    )
