"""Activations in flight: the formula against a walk through the schedule."""

import numpy as np
import pytest
from numpy.typing import NDArray

from shardwright.base.errors import SpecError
from shardwright.costmodel.pipeline.action import ActionKind
from shardwright.costmodel.pipeline.in_flight import (
    alive_counts,
    peak_activation_bytes,
    peak_in_flight,
    split_counts,
    summed_moments,
    waiting_microbatches,
    walked_counts,
)
from shardwright.costmodel.pipeline.schedule import make_schedule
from shardwright.specs.schedules import ScheduleName, by_rank

SHAPES: list[tuple[ScheduleName, int, int, int]] = [
    *[("gpipe", pp, 1, microbatches) for pp in (1, 2, 5) for microbatches in (1, 2, 7)],
    *[("1f1b", pp, 1, microbatches) for pp in (1, 2, 5, 8) for microbatches in (1, 2, 4, 5, 8, 30)],
    *[
        ("interleaved-1f1b", pp, stages_per_rank, pp * rounds)
        for pp in (2, 3, 4, 8)
        for stages_per_rank in (2, 3, 5)
        for rounds in (1, 2, 3, 6)
    ],
    *[("zb-h1", pp, 1, microbatches) for pp in (1, 2, 5) for microbatches in (1, 4, 30)],
    *[("zb-2p", pp, 1, microbatches) for pp in (1, 2, 5) for microbatches in (1, 4, 30)],
    *[("zb-v", pp, 2, microbatches) for pp in (2, 5) for microbatches in (1, 4, 30)],
    *[("v-half", pp, 2, microbatches) for pp in (2, 5) for microbatches in (1, 4, 30)],
    *[("v-min", pp, 2, microbatches) for pp in (2, 5) for microbatches in (1, 4, 30)],
    *[("dualpipe-v", pp, 2, microbatches) for pp in (2, 5) for microbatches in (2 * pp, 30)],
]


CHANGE = {ActionKind.FORWARD: 1, ActionKind.BACKWARD: -1, ActionKind.INPUT_GRADIENT: 0, ActionKind.WEIGHT_GRADIENT: -1}


def walked(name: ScheduleName, pp: int, stages_per_rank: int, microbatches: int) -> list[NDArray[np.int64]]:
    """Per rank, [moments, stages_per_rank]: what is alive after every action; a pair's forward starts before its end."""
    walks = []
    for order in make_schedule(name, pp, stages_per_rank, microbatches).orders:
        actions = [action for work in order for action in work.passes]
        alive = np.zeros((len(actions) + 1, stages_per_rank), dtype=np.int64)
        for moment, action in enumerate(actions):
            alive[moment + 1] = alive[moment]
            alive[moment + 1, action.stage // pp] += CHANGE[action.kind]
        walks.append(alive)
    return walks


@pytest.mark.parametrize(("name", "pp", "stages_per_rank", "microbatches"), SHAPES)
def test_the_peak_bytes_are_those_of_walking_through_the_schedule(
    name: ScheduleName, pp: int, stages_per_rank: int, microbatches: int
) -> None:
    sizes = np.random.default_rng(3).lognormal(sigma=1.5, size=(20, pp * stages_per_rank))
    expected = [
        (by_rank(name, pp, sizes)[..., rank] @ alive.T).max(axis=-1)
        for rank, alive in enumerate(walked(name, pp, stages_per_rank, microbatches))
    ]
    np.testing.assert_allclose(peak_activation_bytes(name, pp, microbatches, sizes), np.stack(expected, axis=-1))


@pytest.mark.parametrize(("name", "pp", "stages_per_rank", "microbatches"), SHAPES)
def test_the_peak_counts_and_every_moment_occur_in_the_schedule(
    name: ScheduleName, pp: int, stages_per_rank: int, microbatches: int
) -> None:
    walks = walked(name, pp, stages_per_rank, microbatches)
    per_stage = by_rank(name, pp, peak_in_flight(name, pp, stages_per_rank, microbatches))
    for rank, (alive, counts) in enumerate(
        zip(walks, alive_counts(name, pp, stages_per_rank, microbatches), strict=True)
    ):
        assert per_stage[:, rank].tolist() == alive.max(axis=0).tolist()
        assert {tuple(row) for row in counts.tolist()} <= {tuple(row) for row in alive.tolist()}


@pytest.mark.parametrize("name", ["zb-h1", "zb-2p", "zb-v", "v-half", "v-min", "dualpipe-v"])
@pytest.mark.parametrize("pp", [2, 3, 5, 8])
def test_from_twice_the_ranks_on_more_microbatches_change_nothing(name: ScheduleName, pp: int) -> None:
    chunks = 1 if name in ("zb-h1", "zb-2p") else 2
    same = split_counts(name, pp, chunks, 2 * pp)
    for microbatches in (2 * pp + 1, 3 * pp, 5 * pp - 1):
        walked = walked_counts(name, pp, chunks, microbatches)
        assert all(np.array_equal(one, other) for one, other in zip(same, walked, strict=True))


def test_what_was_recomputed_is_held_until_the_weight_gradient() -> None:
    """Rank 1 of ZB-H1 on two: 1F0,1I0,1F1,1I1,1W0,...: when 1I1 ends, two weight gradients are left."""
    forward, postponed = np.array([1.0, 1.0]), np.array([10.0, 10.0])
    assert peak_activation_bytes("zb-h1", 2, 4, forward, postponed).tolist() == [11, 20]
    assert peak_activation_bytes("zb-h1", 2, 4, forward).tolist() == [2, 2]
    assert peak_activation_bytes("1f1b", 2, 4, forward, postponed).tolist() == [2, 1]


def test_textbook_peaks() -> None:
    assert peak_in_flight("gpipe", 4, 1, 10).tolist() == [10, 10, 10, 10]
    assert peak_in_flight("1f1b", 4, 1, 10).tolist() == [4, 3, 2, 1]
    assert peak_in_flight("1f1b", 4, 1, 2).tolist() == [2, 2, 2, 1]
    assert peak_in_flight("interleaved-1f1b", 2, 2, 8).tolist() == [4, 3, 2, 1]
    assert peak_in_flight("zb-h1", 4, 1, 10).tolist() == [4, 4, 4, 4]
    assert peak_in_flight("zb-2p", 4, 1, 10).tolist() == [7, 7, 7, 7]
    assert peak_in_flight("zb-2p", 4, 1, 5).tolist() == [5, 5, 5, 5]


def test_every_rank_of_a_v_holds_as_much() -> None:
    """Qi et al. 2023 (arXiv 2401.10241), section 6: 2 pp half stages, the memory of 1F1B; DualPipe-V one whole more."""
    assert peak_activation_bytes("zb-v", 4, 20, np.ones(8)).tolist() == [8, 8, 8, 8]
    assert peak_activation_bytes("dualpipe-v", 4, 20, np.ones(8)).tolist() == [9, 9, 9, 9]


@pytest.mark.parametrize("pp", [2, 3, 4, 8, 16])
def test_v_half_and_v_min_hold_what_their_authors_say(pp: int) -> None:
    """(pp + 2) // 2 and (pp + 4) // 3 microbatches of both stages, where 1F1B holds pp: Qi et al. 2024 (arXiv 2405.15362)."""
    halves = np.full(2 * pp, 0.5)
    assert peak_activation_bytes("v-half", pp, 4 * pp, halves).tolist() == [(pp + 2) // 2] * pp
    assert peak_activation_bytes("v-min", pp, 4 * pp, halves).max() == (pp + 4) // 3
    assert peak_activation_bytes("1f1b", pp, 4 * pp, np.ones(pp))[0] == pp


def test_a_rank_whose_stages_peak_at_different_moments_holds_less_than_the_sum_of_their_peaks() -> None:
    separate = peak_in_flight("interleaved-1f1b", 4, 2, 16).reshape(2, 4).sum(axis=0)
    together = peak_activation_bytes("interleaved-1f1b", 4, 16, np.ones(8))
    assert together.tolist() == [11, 9, 7, 5]
    assert (together < separate).any()


def test_a_schedule_that_does_not_exist_is_refused() -> None:
    with pytest.raises(SpecError, match="divisible by pp"):
        alive_counts("interleaved-1f1b", 4, 2, 6)


@pytest.mark.parametrize("pp", [2, 4, 5, 8])
def test_the_interlaced_pipeline_holds_half_as_many_again(pp: int) -> None:
    """A forward takes 1, a backward 2, and all ranks stop every 3 for the vocabulary of one microbatch (no time here).

    The k-th rank from the end computes a forward first where k is odd, and a backward first where it is even.
    """
    microbatches = range(4 * pp)
    forward = {(m, k): 3 * (m - k // 2) + (0 if k % 2 else 2) for m in microbatches for k in range(pp)}
    backward = {(m, k): 3 * (m + 1 + k) + (1 if k % 2 else 0) for m in microbatches for k in range(pp)}
    for m in microbatches:
        assert forward[m, 0] + 1 == 3 * (m + 1) == backward[m, 0]  # the stop of m lies between them
        assert all(forward[m, k + 1] + 1 <= forward[m, k] for k in range(pp - 1))
        assert all(backward[m, k] + 2 <= backward[m, k + 1] for k in range(pp - 1))
    held = [
        max(sum(forward[m, k] <= now < backward[m, k] + 2 for m in microbatches) for now in range(15 * pp))
        for k in range(pp)
    ]
    assert held[::-1] == (pp - np.arange(pp) + waiting_microbatches("interlaced", pp)).tolist()


def most(
    schedule: ScheduleName, stages_per_rank: int, microbatches: int, kept: list[int], sums: list[int], *, early: bool
) -> int:
    """The most that the first of two ranks holds of activations and summed gradients."""
    first, _ = summed_moments(schedule, 2, stages_per_rank, microbatches, reduces_by_stage=early)
    return int((first.alive @ np.array(kept) + first.summed @ np.array(sums)).max())


def test_a_sum_of_gradients_meets_all_microbatches_but_the_one_that_made_it() -> None:
    """1F1B, F0 F1 B0 B1: before the first backward two are kept, after it one and the sum. With a third one two meet the sum."""
    assert most("1f1b", 1, 2, [10], [3], early=True) == 20
    assert most("1f1b", 1, 2, [10], [30], early=True) == 40
    assert most("1f1b", 1, 3, [10], [3], early=True) == 23


def test_a_stage_that_has_reduced_leaves_room_for_the_other() -> None:
    """F0 F0 F2 F2 B2 B2 B0 B0 on the first rank: three and one sum, or one and both sums where they are reduced at the end."""
    assert most("interleaved-1f1b", 2, 2, [10, 10], [100, 100], early=True) == 130
    assert most("interleaved-1f1b", 2, 2, [10, 10], [100, 100], early=False) == 210
    assert most("interleaved-1f1b", 2, 8, [10, 10], [100, 100], early=True) > 210
