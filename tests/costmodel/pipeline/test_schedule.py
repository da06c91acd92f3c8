"""Schedules: printing and parsing, what waits for what, and for which numbers none is made."""

import pytest

from shardwright.base.errors import SpecError
from shardwright.costmodel.pipeline.action import Action, ActionKind, Overlap
from shardwright.costmodel.pipeline.schedule import Schedule, make_schedule, overlap_counts
from shardwright.specs.schedules import ScheduleName


@pytest.mark.parametrize(
    ("name", "pp", "stages_per_rank", "microbatches", "message"),
    [
        (
            "1f1bb",
            2,
            1,
            4,
            "allowed: gpipe, 1f1b, interleaved-1f1b, breadth-first, zb-h1, zb-2p, zb-v, v-half, v-min, dualpipe-v, skippipe-25. Did you mean '1f1b'?",
        ),
        ("1f1b", 2, 2, 4, "1f1b needs one stage on each rank, not 4 in all for pp 2; interleaved-1f1b runs several"),
        ("zb-v", 4, 1, 4, "zb-v needs 2 stages on each rank, not 4 in all for pp 4"),
        ("dualpipe-v", 4, 2, 7, "dualpipe-v needs as many microbatches as stages: 8 or more with pp 4, not 7"),
    ],
)
def test_numbers_without_a_schedule_are_refused(
    name: ScheduleName, pp: int, stages_per_rank: int, microbatches: int, message: str
) -> None:
    with pytest.raises(SpecError) as caught:
        make_schedule(name, pp, stages_per_rank, microbatches)
    assert message in str(caught.value)


def test_parse_leaves_out_the_idle_slots_of_a_torch_file_and_names_the_cell_that_is_wrong() -> None:
    assert Schedule.parse("0F0,,0B0\n,1F0,1B0\n") == make_schedule("1f1b", 2, 1, 1)
    with pytest.raises(SpecError, match="schedule, rank 1, step 2: '1Q0' is not an action"):
        Schedule.parse("0F0,0B0\n1F0,1B0,1Q0\n")


def test_the_message_of_a_forward_comes_from_above_and_of_a_gradient_from_below() -> None:
    schedule = Schedule.parse("0F0,0B0\n1F0,1I0,1W0\n2F0,2B0\n")
    sources = {str(action): str(schedule.source(action)) for action in schedule}
    assert sources == {
        "0F0": "None",
        "0B0": "1I0",
        "1F0": "0F0",
        "1I0": "2B0",
        "1W0": "None",
        "2F0": "1F0",
        "2B0": "None",
    }


def test_an_overlapped_pair_is_one_piece_of_work_and_two_actions() -> None:
    schedule = Schedule.parse("0F0,(0F1;1B0)OVERLAP_F_B\n")
    forward, backward = Action(0, ActionKind.FORWARD, 1), Action(1, ActionKind.BACKWARD, 0)
    assert schedule.orders == ((Action(0, ActionKind.FORWARD, 0), Overlap(forward, backward)),)
    assert list(schedule) == [Action(0, ActionKind.FORWARD, 0), forward, backward]
    assert str(schedule) == "0F0,(0F1;1B0)OVERLAP_F_B\n"


def test_equal_schedules_are_one_key_however_they_came_about() -> None:
    made = make_schedule("1f1b", 2, 1, 2)
    parsed = Schedule.parse(str(made))
    assert parsed is not made
    assert {made: 1}[parsed] == 1


def test_only_dualpipe_v_overlaps_and_the_last_rank_runs_its_first_pair_apart() -> None:
    assert overlap_counts("zb-v", 2, 2, 6).tolist() == [0, 0, 0, 0]
    # Of rank 0: 3 forwards down of its 6, 4 up; of rank 1: 3 down, 4 up, but the first pair down runs apart.
    assert overlap_counts("dualpipe-v", 2, 2, 6).tolist() == [3, 3, 4, 4]


def test_the_grid_of_a_long_schedule_shows_only_the_steps_around_the_mark() -> None:
    lines = make_schedule("gpipe", 2, 1, 100).grid(marked=(1, 50), context=2).splitlines()
    assert lines[0].split() == ["rank", "0", "rank", "1"]
    assert [line.split()[1] for line in lines[1:]] == ["48", "49", "50", "51", "52"]
    assert lines[3] == "step 50  0F50    [1F50]  <-- rank 1, step 50"
