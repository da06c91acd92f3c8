"""For which numbers each schedule exists, and where it puts its stages."""

import numpy as np
import pytest

from shardwright.base.errors import SpecError
from shardwright.costmodel.pipeline.schedule import make_schedule
from shardwright.specs.schedules import ScheduleName, by_rank, by_stage, check_shape, stage_ranks


@pytest.mark.parametrize(
    ("name", "pp", "stages", "microbatches", "message"),
    [
        (
            "zb",
            2,
            2,
            4,
            "schedule 'zb' is not known; allowed: gpipe, 1f1b, interleaved-1f1b, breadth-first, zb-h1, zb-2p, zb-v, v-half, v-min, dualpipe-v, skippipe-25.",
        ),
        ("1f1b", 2, 4, 4, "1f1b needs one stage on each rank, not 4 in all for pp 2; interleaved-1f1b runs several"),
        ("zb-h1", 2, 4, 4, "zb-h1 needs one stage on each rank, not 4 in all for pp 2; interleaved-1f1b runs several"),
        ("gpipe", 4, 2, 4, "gpipe needs one stage on each rank, not 2 in all for pp 4"),
        ("interleaved-1f1b", 1, 2, 4, "needs pp of 2 or more and 2, 3, ... stages on each rank, not 2 in all for pp 1"),
        ("interleaved-1f1b", 4, 4, 4, "needs 2, 3, ... stages on each rank, not 4 in all for pp 4"),
        ("interleaved-1f1b", 4, 10, 4, "needs 2, 3, ... stages on each rank, not 10 in all for pp 4"),
        ("interleaved-1f1b", 4, 8, 10, "divisible by pp: 10 by 4; the nearest is 8"),
        ("zb-v", 2, 6, 4, "zb-v needs 2 stages on each rank, not 6 in all for pp 2"),
        ("zb-v", 1, 2, 4, "zb-v needs pp of 2 or more and 2 stages on each rank, not 2 in all for pp 1"),
        ("zb-2p", 2, 4, 4, "zb-2p needs one stage on each rank, not 4 in all for pp 2; interleaved-1f1b runs several"),
        ("v-half", 4, 4, 4, "v-half needs 2 stages on each rank, not 4 in all for pp 4"),
        ("vhalf", 4, 8, 4, "Did you mean 'v-half'?"),
        ("dualpipe-v", 4, 8, 7, "needs as many microbatches as stages: 8 or more with pp 4, not 7"),
        ("gpipe", 0, 1, 4, "1 or more, not 0, 1 and 4"),
        ("gpipe", 2, 2, 0, "1 or more, not 2, 2 and 0"),
    ],
)
def test_numbers_without_a_schedule_are_refused_in_one_line(
    name: ScheduleName, pp: int, stages: int, microbatches: int, message: str
) -> None:
    with pytest.raises(SpecError) as caught:
        check_shape(name, pp, stages, microbatches)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_loop_starts_again_at_the_first_rank_and_a_v_turns_at_the_last() -> None:
    assert stage_ranks("interleaved-1f1b", 3, 6) == [0, 1, 2, 0, 1, 2]
    for name in ("zb-v", "v-half", "v-min", "dualpipe-v"):
        assert stage_ranks(name, 3, 6) == [0, 1, 2, 2, 1, 0]


@pytest.mark.parametrize(
    ("name", "stages_per_rank"),
    [
        *[(name, 1) for name in ("gpipe", "1f1b", "zb-h1", "zb-2p")],
        *[(name, 2) for name in ("zb-v", "v-half", "v-min", "dualpipe-v")],
        ("interleaved-1f1b", 3),
    ],
)
def test_the_orders_hold_their_stages_where_the_shape_says(name: ScheduleName, stages_per_rank: int) -> None:
    schedule = make_schedule(name, 4, stages_per_rank, 8)
    assert [schedule.rank_of_stage[stage] for stage in range(schedule.stages)] == stage_ranks(name, 4, schedule.stages)


def test_a_column_by_rank_is_what_the_rank_holds() -> None:
    stages = np.arange(8)
    assert by_rank("interleaved-1f1b", 4, stages).T.tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert by_rank("zb-v", 4, stages).T.tolist() == [[0, 7], [1, 6], [2, 5], [3, 4]]
    plans = np.arange(24).reshape(3, 8)
    for name in ("interleaved-1f1b", "zb-v"):
        assert by_rank(name, 4, plans).shape == (3, 2, 4)
        assert by_stage(name, by_rank(name, 4, plans)).tolist() == plans.tolist()
