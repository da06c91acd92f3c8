"""The orders of the named schedules, written out where they are short."""

import pytest

from shardwright.costmodel.pipeline.schedule import make_schedule
from shardwright.specs.schedules import ScheduleName


def test_gpipe_runs_all_forwards_and_then_all_backwards() -> None:
    assert str(make_schedule("gpipe", 2, 1, 3)) == "0F0,0F1,0F2,0B0,0B1,0B2\n1F0,1F1,1F2,1B0,1B1,1B2\n"


def test_1f1b_warms_up_by_one_forward_for_each_rank_below() -> None:
    assert str(make_schedule("1f1b", 3, 1, 4)) == (
        "0F0,0F1,0F2,0B0,0F3,0B1,0B2,0B3\n1F0,1F1,1B0,1F2,1B1,1F3,1B2,1B3\n2F0,2B0,2F1,2B1,2F2,2B2,2F3,2B3\n"
    )


def test_1f1b_with_fewer_microbatches_than_ranks_runs_the_upper_ranks_like_gpipe() -> None:
    assert str(make_schedule("1f1b", 3, 1, 2)) == "0F0,0F1,0B0,0B1\n1F0,1F1,1B0,1B1\n2F0,2B0,2F1,2B1\n"


def test_interleaved_runs_pp_microbatches_through_a_chunk_before_the_next_chunk() -> None:
    assert str(make_schedule("interleaved-1f1b", 2, 2, 4)) == (
        "0F0,0F1,2F0,2F1,0F2,2B0,0F3,2B1,2F2,0B0,2F3,0B1,2B2,2B3,0B2,0B3\n"
        "1F0,1F1,3F0,3B0,3F1,3B1,1F2,1B0,1F3,1B1,3F2,3B2,3F3,3B3,1B2,1B3\n"
    )


def test_breadth_first_runs_all_microbatches_through_a_chunk_before_the_next_chunk() -> None:
    assert str(make_schedule("breadth-first", 2, 2, 3)) == (
        "0F0,0F1,0F2,2F0,2F1,2F2,2B2,2B1,2B0,0B2,0B1,0B0\n1F0,1F1,1F2,3F0,3F1,3F2,3B2,3B1,3B0,1B2,1B1,1B0\n"
    )


def test_zb_h1_postpones_weight_gradients_by_as_many_microbatches_as_there_are_ranks_above() -> None:
    assert str(make_schedule("zb-h1", 3, 1, 4)) == (
        "0F0,0F1,0F2,0I0,0W0,0F3,0I1,0W1,0I2,0W2,0I3,0W3\n"
        "1F0,1F1,1I0,1F2,1I1,1W0,1F3,1I2,1W1,1I3,1W2,1W3\n"
        "2F0,2I0,2F1,2I1,2F2,2I2,2W0,2F3,2I3,2W1,2W2,2W3\n"
    )


def test_zb_2p_warms_up_and_postpones_twice_as_long() -> None:
    assert str(make_schedule("zb-2p", 3, 1, 6)) == (
        "0F0,0F1,0F2,0F3,0F4,0I0,0W0,0F5,0I1,0W1,0I2,0W2,0I3,0W3,0I4,0W4,0I5,0W5\n"
        "1F0,1F1,1F2,1I0,1F3,1I1,1F4,1I2,1W0,1F5,1I3,1W1,1I4,1W2,1I5,1W3,1W4,1W5\n"
        "2F0,2I0,2F1,2I1,2F2,2I2,2F3,2I3,2F4,2I4,2W0,2F5,2I5,2W1,2W2,2W3,2W4,2W5\n"
    )


def test_zb_2p_of_fewer_microbatches_than_fill_the_pipeline() -> None:
    assert str(make_schedule("zb-2p", 3, 1, 1)) == "0F0,0I0,0W0\n1F0,1I0,1W0\n2F0,2I0,2W0\n"


def test_zb_v_on_two_ranks() -> None:
    assert str(make_schedule("zb-v", 2, 2, 3)) == (
        "0F0,0F1,0F2,3F0,3I0,3W0,3F1,3I1,3W1,0I0,0W0,3F2,3I2,3W2,0I1,0W1,0I2,0W2\n"
        "1F0,2F0,1F1,2F1,2I0,2W0,1F2,1I0,1W0,2F2,2I1,2W1,1I1,2I2,1I2,1W1,2W2,1W2\n"
    )


def test_zb_v_of_fewer_microbatches_than_fill_the_pipeline_leaves_out_what_is_missing() -> None:
    assert str(make_schedule("zb-v", 2, 2, 1)) == "0F0,3F0,3I0,3W0,0I0,0W0\n1F0,2F0,2I0,2W0,1I0,1W0\n"


def test_v_half_on_two_ranks() -> None:
    """From the first gradient of stage 0, in slot 13, to the last forward of stage 0, in slot 24, six passes repeat."""
    first, second = str(make_schedule("v-half", 2, 2, 5)).splitlines()
    assert first == (
        "0F0,0F1,0F2,3F0,3I0,3W0,3F1,0I0,3I1,0W0,3F2,3W1,0F3,"
        "0I1,3I2,0W1,3F3,3W2,0F4,0I2,3I3,0W2,3F4,3I4,0I3,3W3,0I4,0W3,3W4,0W4"
    )
    assert second.startswith("1F0,2F0,1F1,2F1,2I0,2W0,1I0,1W0,1F2,2F2,2I1,2W1,1I1,1W1,1F3,2F3,2I2,2W2,1I2")
    assert str(make_schedule("v-half", 2, 2, 1)) == "0F0,3F0,3I0,3W0,0I0,0W0\n1F0,2F0,2I0,2W0,1I0,1W0\n"


@pytest.mark.parametrize("name", ["v-half", "v-min"])
@pytest.mark.parametrize("pp", range(2, 9))
def test_a_building_block_repeats_once_a_microbatch_where_the_pipeline_is_full(name: ScheduleName, pp: int) -> None:
    for order in make_schedule(name, pp, 2, 6 * pp).orders:
        middle = [action for work in order for action in work.passes][12 * pp : 24 * pp]
        assert [action._replace(microbatch=action.microbatch + 1) for action in middle[:-6]] == middle[6:]


def test_dualpipe_v_on_two_ranks() -> None:
    assert str(make_schedule("dualpipe-v", 2, 2, 4)) == (
        "0F0,0F1,0F2,3F0,3I0,3W0,3F1,(0F3;3B1)OVERLAP_F_B,(3F2;0B0)OVERLAP_F_B,"
        "3B2,(3F3;0B1)OVERLAP_F_B,3B3,0I2,0W2,0I3,0W3\n"
        "1F0,2F0,1F1,2F1,1F2,2B0,(2F2;1B0)OVERLAP_F_B,(1F3;2B1)OVERLAP_F_B,"
        "(2F3;1B1)OVERLAP_F_B,2B2,1B2,2I3,1I3,2W3,1W3\n"
    )
