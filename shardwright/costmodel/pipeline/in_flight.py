"""Microbatches whose activations a rank holds at once: alive from the start of a forward to the end of its backward.

Where the backward is split, the activations that the weight gradient reads are held until its end. They may exceed
those that the forward left, if the input gradient has recomputed them. Bytes that the input gradient frees are not
subtracted.

A rank computes one action at a time. Its peak therefore depends on the order of its actions, not on their seconds.
"""

from collections import Counter
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shardwright.base import IntArray
from shardwright.specs import (
    ScheduleName,
    VocabularyParallel,
    by_rank,
    by_stage,
    check_shape,
    runs_by_chunk,
    skips_stages,
    splits_backward,
    stage_ranks,
    visits,
)

from .action import ActionKind
from .orders import warm_up_forwards
from .schedule import make_schedule


@lru_cache(maxsize=4096)
def alive_counts(name: ScheduleName, pp: int, stages_per_rank: int, microbatches: int) -> tuple[IntArray, ...]:
    """Per rank, [moments, stages_per_rank]: microbatches alive on each of its stages when it holds the most.

    Column `c` is the rank's c-th stage. Each row is one moment. At every other moment of the step no stage holds more
    than at one of these. The peak of any quantity that grows with the counts is therefore its maximum over the rows.

    The moments follow from the schedule's formula. After its warm-up of w forwards a rank alternates, so forward w + j
    runs when j backwards are done. The counts repeat after stages_per_rank * pp forwards. Schedules that split
    backwards are walked through instead.

    GPipe: every microbatch. 1F1B: min(microbatches, pp - rank). ZB-H1: min(microbatches, pp). ZB-2p: min(microbatches,
    2 pp - 1). Breadth-first: every microbatch on every stage. SkipPipe: about those of 2 (pp - rank) - 1 that pass the stage.

    Raises:
        SpecError: no such schedule.
    """
    check_shape(name, pp, stages_per_rank * pp, microbatches)
    if skips_stages(name):
        walked = walked_counts(name, pp, stages_per_rank, microbatches)
        return tuple(np.unique(counts.sum(axis=1), axis=0) for counts in walked)
    if splits_backward(name):
        walked = split_counts(name, pp, stages_per_rank, microbatches)
        return tuple(np.unique(counts.sum(axis=1), axis=0) for counts in walked)
    if runs_by_chunk(name):
        every = np.full((1, stages_per_rank), microbatches)
        every.setflags(write=False)
        return (every,) * pp
    return tuple(_alive_counts_of_rank(name, pp, stages_per_rank, microbatches, rank) for rank in range(pp))


def _alive_counts_of_rank(name: ScheduleName, pp: int, stages_per_rank: int, microbatches: int, rank: int) -> IntArray:
    forwards = stages_per_rank * microbatches
    warm_up = warm_up_forwards(name, pp, stages_per_rank, microbatches, rank)
    moments = np.arange(max(1, min(stages_per_rank * pp, forwards - warm_up)))
    started = runs_of_chunk(np.minimum(forwards, warm_up + 1 + moments), pp, stages_per_rank)
    finished = runs_of_chunk(moments, pp, stages_per_rank)[:, ::-1]
    counts = np.unique(started - finished, axis=0)
    counts.setflags(write=False)
    return counts


def split_counts(name: ScheduleName, pp: int, stages_per_rank: int, microbatches: int) -> tuple[IntArray, ...]:
    """Per rank, [moments, 2, stages_per_rank]: microbatches that wait for their input gradient or whole backward, and
    microbatches that wait only for their weight gradient.

    The moments are those at which either grows: the start of a forward, and the end of an input gradient. At the start
    of a forward the backward of an overlapped pair still runs. They are the same for all numbers of microbatches from twice
    the ranks on.

    Raises:
        SpecError: no such schedule.
    """
    check_shape(name, pp, stages_per_rank * pp, microbatches)
    return walked_counts(name, pp, stages_per_rank, min(microbatches, 2 * pp))


# By how much a pass changes the two numbers of `split_counts`.
_CHANGES = {
    ActionKind.FORWARD: (1, 0),
    ActionKind.BACKWARD: (-1, 0),
    ActionKind.INPUT_GRADIENT: (-1, 1),
    ActionKind.WEIGHT_GRADIENT: (0, -1),
}


@lru_cache(maxsize=4096)
def walked_counts(name: ScheduleName, pp: int, stages_per_rank: int, microbatches: int) -> tuple[IntArray, ...]:
    """The counts of `split_counts`, for this very number of microbatches."""
    schedule = make_schedule(name, pp, stages_per_rank, microbatches)
    found = []
    for order in schedule.orders:
        actions = [action for work in order for action in work.passes]
        changes = np.zeros((len(actions), 2, stages_per_rank), dtype=np.int64)
        chunks = [action.stage // pp for action in actions]
        changes[np.arange(len(actions)), :, chunks] = [_CHANGES[action.kind] for action in actions]
        counts = np.unique(changes.cumsum(axis=0)[changes.max(axis=(1, 2)) > 0], axis=0)
        counts.setflags(write=False)
        found.append(counts)
    return tuple(found)


def runs_of_chunk(actions: IntArray, pp: int, stages_per_rank: int) -> IntArray:
    """[moments, stages_per_rank]: how many of a rank's first `actions` forwards belong to each chunk, depth first."""
    if stages_per_rank == 1:
        return actions[:, None]
    rounds, rest = np.divmod(actions[:, None], stages_per_rank * pp)
    return rounds * pp + np.clip(rest - pp * np.arange(stages_per_rank), 0, pp)


def peak_in_flight(name: ScheduleName, pp: int, stages_per_rank: int, microbatches: int) -> IntArray:
    """[stages]: the most microbatches whose activations a stage holds at once.

    The stages of one rank may peak at different moments. Their sum is then more than the rank ever holds.

    Raises:
        SpecError: no such schedule.
    """
    per_rank = [counts.max(axis=0) for counts in alive_counts(name, pp, stages_per_rank, microbatches)]
    return by_stage(name, np.stack(per_rank, axis=-1))


def peak_activation_bytes(
    name: ScheduleName,
    pp: int,
    microbatches: int,
    activation_bytes: NDArray[np.float64],
    postponed_bytes: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Return the most bytes of activations that each rank holds at once.

    Args:
        activation_bytes: [..., stages], of one microbatch on each stage; leading axes run over plans.
        postponed_bytes: [..., stages], held between input and weight gradient; default: the same bytes.

    Returns:
        [..., pp] bytes: the maximum over time of microbatches alive times bytes, summed over the rank's stages.

    Raises:
        SpecError: no such schedule.
    """
    stages_per_rank = activation_bytes.shape[-1] // pp
    by_chunk = by_rank(name, pp, activation_bytes)
    if splits_backward(name) and postponed_bytes is not None:
        both = np.stack([by_chunk, by_rank(name, pp, postponed_bytes)], axis=-3)
        split = split_counts(name, pp, stages_per_rank, microbatches)
        peaks = [np.einsum("...kc,mkc->...m", both[..., rank], split[rank]).max(axis=-1) for rank in range(pp)]
    else:
        counts = alive_counts(name, pp, stages_per_rank, microbatches)
        peaks = [(by_chunk[..., rank] @ counts[rank].T).max(axis=-1) for rank in range(pp)]
    return np.stack(peaks, axis=-1)


class SummedMoments(NamedTuple):
    """Moments of one rank, (moments, stages_per_rank) each: microbatches alive on each of its stages, and which stages hold summed gradients."""

    alive: IntArray
    summed: IntArray


@lru_cache(maxsize=4096)
def summed_moments(
    name: ScheduleName, pp: int, stages_per_rank: int, microbatches: int, *, reduces_by_stage: bool
) -> tuple[SummedMoments, ...]:
    """Per rank, every moment at which it may hold the most of activations and summed gradients together.

    A stage's sum appears in its first backward pass, in which one microbatch's activations go. `reduces_by_stage`: the sum is gone
    after the stage's last backward pass; otherwise it stays to the end of the step. No schedule here splits backward passes.

    Raises:
        SpecError: no such schedule.
    """
    found, passed = [], visits(name, pp, pp * stages_per_rank, microbatches)
    for order in make_schedule(name, pp, stages_per_rank, microbatches).orders:
        alive, summed = (np.zeros(stages_per_rank, dtype=np.int64) for _ in range(2))
        finished = Counter[int]()
        moments = []
        for action in (action for work in order for action in work.passes):
            chunk = action.stage // pp
            if action.kind is ActionKind.FORWARD:
                alive[chunk] += 1
            else:
                alive[chunk] -= 1
                summed[chunk] = 1
                finished[chunk] += 1
            moments.append(np.stack([alive, summed]))
            if reduces_by_stage and finished[chunk] == passed[action.stage]:
                summed[chunk] = 0
        unique = np.unique(np.stack(moments), axis=0)
        found.append(SummedMoments(unique[:, 0], unique[:, 1]))
    return tuple(found)


def waiting_counts(kind: VocabularyParallel, name: ScheduleName, pp: int, stages: int, microbatches: int) -> IntArray:
    """[stages]: microbatches that a stage keeps because the vocabulary is divided, no more than the step has.

    Raises:
        SpecError: no such schedule.
    """
    if kind == "none":
        return np.zeros(stages, dtype=np.int64)
    waiting = waiting_microbatches(kind, pp)[np.array(stage_ranks(name, pp, stages))]
    return np.asarray(np.minimum(waiting, microbatches - peak_in_flight(name, pp, stages // pp, microbatches)))


def waiting_bytes(
    kind: VocabularyParallel, name: ScheduleName, pp: int, microbatches: int, activation_bytes: NDArray[np.float64]
) -> NDArray[np.float64]:
    """[..., pp]: activations of the microbatches that wait for a divided vocabulary. Arguments as in `peak_activation_bytes`.

    In a V they wait on both stages of a rank, in a loop on one.

    Raises:
        SpecError: no such schedule.
    """
    stages = activation_bytes.shape[-1]
    more = by_rank(name, pp, waiting_counts(kind, name, pp, stages, microbatches) * activation_bytes)
    ranks = stage_ranks(name, pp, stages)
    return np.asarray(more.sum(axis=-2) if ranks[0] == ranks[-1] else more.max(axis=-2))


def waiting_microbatches(kind: VocabularyParallel, pp: int) -> IntArray:
    """[pp]: microbatches that each rank keeps in flight beside those of its schedule, because the vocabulary is divided.

    Each barrier in the loss keeps one more: 1F1B holds pp + 1 or pp + 2 microbatches (Yeung et al. 2024, arXiv
    2411.05288, figure 10). A barrier there takes one interval in which the schedule repeats, between the last forward
    and the first gradient of a microbatch. V-Half repeats once a microbatch too. Its gradients come back one interval
    later on both stages of a rank, so both keep one more.

    The other counts are those of 1F1B. The interlaced pipeline stops all ranks for the vocabulary of each microbatch. Between two stops a rank has the time of one forward and one
    backward. A backward takes about two forwards. So the forwards of two neighbours fit in one after another, but not
    their backwards. On the k-th rank from the end, a microbatch needs k / 2 intervals from its forward to the last
    rank, and k intervals back. Half as many again wait as in 1F1B.
    """
    match kind:
        case "interlaced":
            return (pp - np.arange(pp)) // 2
        case "vocab-1":
            return np.full(pp, 2)
        case "vocab-2":
            return np.full(pp, 1)
        case "none":
            return np.zeros(pp, dtype=np.int64)
