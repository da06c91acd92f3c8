"""Schedules: orders, printing and parsing, and what validation refuses."""

import pytest

from shardwright.costmodel.errors import SpecError
from shardwright.costmodel.schedule import Action, ActionKind, Schedule, make_schedule
from shardwright.costmodel.schedule_validation import validate_schedule


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


@pytest.mark.parametrize(
    ("name", "pp", "stages_per_rank", "microbatches", "message"),
    [
        (
            "1f1bb",
            2,
            1,
            4,
            "schedule '1f1bb' is not known; allowed: gpipe, 1f1b, interleaved-1f1b. Did you mean '1f1b'?",
        ),
        ("1f1b", 2, 2, 4, "1f1b runs one stage on each rank, not 2"),
        ("interleaved-1f1b", 1, 2, 4, "pp of 2 or more and 2 or more stages on each rank, not pp 1 with 2"),
        ("interleaved-1f1b", 4, 1, 4, "not pp 4 with 1"),
        ("interleaved-1f1b", 4, 2, 10, "divisible by pp: 10 by 4; the nearest is 8"),
        ("gpipe", 0, 1, 4, "1 or more, not 0, 1 and 4"),
        ("gpipe", 2, 1, 0, "1 or more, not 2, 1 and 0"),
    ],
)
def test_numbers_without_a_schedule_are_refused(
    name: str, pp: int, stages_per_rank: int, microbatches: int, message: str
) -> None:
    with pytest.raises(SpecError) as caught:
        make_schedule(name, pp, stages_per_rank, microbatches)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "2F", "F0", "2X0", "2F0 ", "-1F0", "2f0", "٢F0", "1F0B"])
def test_what_is_not_an_action_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="is not an action: give stage, kind and microbatch as in 2F0"):
        Action.parse(text)


def test_parse_leaves_out_the_idle_slots_of_a_torch_file_and_names_the_cell_that_is_wrong() -> None:
    assert Schedule.parse("0F0,,0B0\n,1F0,1B0\n") == make_schedule("1f1b", 2, 1, 1)
    with pytest.raises(SpecError, match="schedule, rank 1, step 2: '1Q0' is not an action"):
        Schedule.parse("0F0,0B0\n1F0,1B0,1Q0\n")


def test_the_message_of_a_forward_comes_from_above_and_of_a_backward_from_below() -> None:
    assert Action(1, ActionKind.FORWARD, 5).source(3) == Action(0, ActionKind.FORWARD, 5)
    assert Action(1, ActionKind.BACKWARD, 5).source(3) == Action(2, ActionKind.BACKWARD, 5)
    assert Action(0, ActionKind.FORWARD, 5).source(3) is None
    assert Action(2, ActionKind.BACKWARD, 5).source(3) is None


def test_a_v_shaped_placement_is_valid() -> None:
    validate_schedule(Schedule.parse("0F0,3F0,3B0,0B0\n1F0,2F0,2B0,1B0\n"))


@pytest.mark.parametrize(
    ("text", "first_line", "pointer"),
    [
        ("0F0,0B0,0F0\n", "schedule, rank 0, step 2: 0F0 is there a second time; each action runs once", "[0F0]"),
        ("0B0,0F0\n", "schedule, rank 0, step 0: 0B0 comes before 0F0", "[0B0]"),
        ("0F0,0B0\n0F1,0B1\n", "schedule, rank 1, step 0: 0F1 is of stage 0, which rank 0 holds", "[0F1]"),
        ("0F0,0B0,0F1\n", "schedule of 1 stages and 2 microbatches lacks 0B1 on rank 0", "step 2  0F1"),
        ("0F0,0B0\n2F0,2B0\n", "schedule of 3 stages and 1 microbatches lacks 1F0 on any rank", "2B0"),
        ("", "schedule holds no action; give each rank at least one stage's forward and backward", ""),
        (
            "0F0,0B0,0F1,0B1\n1F1,1B1,1F0,1B0\n",
            "schedule, rank 0, step 1: deadlock: 0B0 waits for 1B0, which never runs",
            "step 1  [0B0]   1B1     <-- rank 0, step 1",
        ),
    ],
)
def test_a_schedule_that_cannot_run_is_refused_with_a_pointer_into_its_grid(
    text: str, first_line: str, pointer: str
) -> None:
    with pytest.raises(SpecError) as caught:
        validate_schedule(Schedule.parse(text))
    line, _, grid = str(caught.value).partition("\n")
    assert line == first_line
    assert pointer in grid


def test_the_grid_of_a_long_schedule_shows_only_the_steps_around_the_mark() -> None:
    lines = make_schedule("gpipe", 2, 1, 100).grid(marked=(1, 50), context=2).splitlines()
    assert lines[0].split() == ["rank", "0", "rank", "1"]
    assert [line.split()[1] for line in lines[1:]] == ["48", "49", "50", "51", "52"]
    assert lines[3] == "step 50  0F50    [1F50]  <-- rank 1, step 50"
