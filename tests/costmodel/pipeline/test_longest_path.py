"""The longest path through a schedule's graph, against the recurrences that know the same schedules by formula."""

import numpy as np
import pytest

from shardwright.costmodel.pipeline.longest_path import longest_path_ends
from shardwright.costmodel.pipeline.recurrence import gpipe_ends, interleaved_ends, one_forward_one_backward_ends
from shardwright.costmodel.pipeline.stage_costs import StageCosts
from shardwright.specs.schedules import ScheduleName
from tests.costmodel.pipeline.test_step import random_costs

RECURRENCES = {
    "gpipe": gpipe_ends,
    "1f1b": one_forward_one_backward_ends,
    "interleaved-1f1b": interleaved_ends,
}


@pytest.mark.parametrize(
    ("name", "pp", "stages_per_rank", "microbatches"),
    [("gpipe", 3, 1, 7), ("1f1b", 4, 1, 2), ("1f1b", 4, 1, 30), ("1f1b", 1, 1, 5), ("interleaved-1f1b", 3, 2, 9)],
)
def test_each_rank_ends_when_the_recurrence_says(
    name: ScheduleName, pp: int, stages_per_rank: int, microbatches: int
) -> None:
    costs = random_costs(np.random.default_rng(30), pp, pp * stages_per_rank, (2, 3))
    ends = longest_path_ends(name, costs, microbatches)
    assert ends.shape == (2, 3, pp)
    np.testing.assert_allclose(ends, RECURRENCES[name](costs, microbatches), rtol=1e-12)


def test_zb_v_on_two_ranks_by_hand() -> None:
    """0F0,3F0,3I0,3W0,0I0,0W0 and 1F0,2F0,2I0,2W0,1I0,1W0: down and up the V and back, then rank 0's weight gradient."""
    costs = StageCosts(
        pp=2,
        forward=[1, 2, 3, 4],
        backward=[10, 20, 30, 40],
        weight_gradient=[5, 6, 7, 8],
        send=[0.5, 0, 0.25],
        first_forward_extra=[0.125, 0, 0, 0],
    )
    up_the_v = 0.125 + 1 + 0.5 + 2 + 3 + 0.25 + 4  # ends 3F0
    gradient_2 = up_the_v + 32 + 0.25 + 23  # 3I0, its message, 2I0
    rank_1 = gradient_2 + 7 + 14 + 6  # 2W0 before 1I0, 1W0
    rank_0 = gradient_2 + 7 + 14 + 0.5 + 5 + 5  # 1I0's message, 0I0, 0W0
    np.testing.assert_allclose(longest_path_ends("zb-v", costs, 1), [rank_0, rank_1])
    np.testing.assert_allclose(longest_path_ends("v-half", costs, 1), [rank_0, rank_1])  # the same order


def test_zb_2p_on_two_ranks_by_hand() -> None:
    """0F0,0F1,0I0,0W0,0I1,0W1 and 1F0,1I0,1F1,1I1,1W0,1W1."""
    costs = StageCosts(pp=2, forward=[1, 2], backward=[10, 20], weight_gradient=[4, 5], send=[0.5])
    first_gradient = 1 + 0.5 + 2 + 15  # 1I0
    second_gradient = first_gradient + 2 + 15  # 1F1, 1I1
    rank_0 = max(first_gradient + 0.5 + 6 + 4, second_gradient + 0.5) + 6 + 4
    np.testing.assert_allclose(longest_path_ends("zb-2p", costs, 2), [rank_0, second_gradient + 5 + 5])
