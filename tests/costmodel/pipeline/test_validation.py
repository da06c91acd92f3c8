"""What validation lets pass, and what it refuses with a pointer into the grid."""

import numpy as np
import pytest

from shardwright.base.errors import SpecError
from shardwright.costmodel.pipeline.in_flight import peak_activation_bytes
from shardwright.costmodel.pipeline.schedule import Schedule, make_schedule
from shardwright.costmodel.pipeline.simulation import simulate
from shardwright.costmodel.pipeline.stage_costs import StageCosts
from shardwright.costmodel.pipeline.step import step_seconds
from shardwright.costmodel.pipeline.validation import validate_schedule
from shardwright.specs.schedules import ScheduleName


def test_a_v_shaped_placement_is_valid() -> None:
    validate_schedule(Schedule.parse("0F0,3F0,3B0,0B0\n1F0,2F0,2B0,1B0\n"))


@pytest.mark.parametrize(
    ("name", "chunks", "pp"),
    [
        *[("zb-2p", 1, pp) for pp in range(1, 9)],
        *[("v-half", 2, pp) for pp in range(2, 9)],
        *[("v-min", 2, pp) for pp in range(2, 9)],
    ],
)
def test_every_number_of_microbatches_runs_within_the_memory_of_many(name: ScheduleName, chunks: int, pp: int) -> None:
    """Whole microbatches alive on a rank: 2 pp - 1, (pp + 2) // 2 and (pp + 4) // 3."""
    most = {"zb-2p": 2 * pp - 1, "v-half": (pp + 2) // 2, "v-min": (pp + 4) // 3}[name]
    stages = pp * chunks
    costs = StageCosts(pp=pp, forward=np.ones(stages), backward=2.0, weight_gradient=1.0)
    for microbatches in range(1, 3 * pp + 1):
        schedule = make_schedule(name, pp, chunks, microbatches)
        validate_schedule(schedule)
        seconds = simulate(schedule, costs).step_seconds
        assert seconds == pytest.approx(float(step_seconds(name, costs, microbatches)))
        held = peak_activation_bytes(name, pp, microbatches, np.full(stages, 1 / chunks))
        assert held.max() <= min(most, microbatches)


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
            "0F0,0I0,0F1,0I1,0W0\n",
            "schedule of 1 stages and 2 microbatches lacks 0W1 on rank 0",
            "step 3  0I1",
        ),
        ("0F0,0W0,0I0\n", "schedule, rank 0, step 1: 0W0 comes before 0I0", "[0W0]"),
        ("0F0,0I0,0W0,0W0\n", "schedule, rank 0, step 3: 0W0 is there a second time; each action runs once", "[0W0]"),
        (
            "0F0,0I0,0B0\n",
            "schedule, rank 0, step 2: 0B0 and 0I0 are both there; give a backward whole or split",
            "[0B0]",
        ),
        (
            "0F0,(0F1;1B0)OVERLAP_F_B,1F0,1F1,1B1,0B0,0B1\n",
            "schedule, rank 0, step 1: 1B0 comes before 1F0",
            "[(0F1;1B0)OVERLAP_F_B]",
        ),
        ("(0F0;0B0)OVERLAP_F_B\n", "schedule, rank 0, step 0: 0B0 comes before 0F0", "[(0F0;0B0)OVERLAP_F_B]"),
        (
            "0F0,1F0,(1F1;1B0)OVERLAP_F_B,0F1,1B1,0B0,0B1\n",
            "schedule, rank 0, step 2: deadlock: 1F1 waits for 0F1, which never runs",
            "[(1F1;1B0)OVERLAP_F_B]",
        ),
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
