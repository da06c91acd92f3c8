"""Breadth-first beside interleaved stages under ZeRO-3, with numbers worked by hand.

A layer has 7,744 parameters, which are 30,976 bytes in fp32; the embedding has 12,800 bytes, head and norm have 12,928. On two ranks with two
stages of one layer each, the first has 74,752 bytes and the second 74,880.
"""

import pytest

from shardwright.costmodel import charged_step, estimate_plan
from shardwright.costmodel.plan_file import PlanFile
from shardwright.planner.best_plan import search
from shardwright.planner.space.fixed import Fixed
from shardwright.specs.schedules import ScheduleName
from tests.parity.cases import layers, model_config, plan, plan_file

FIRST, SECOND, LAYERS = 74_752, 74_880, 2 * 30_976
MICROBATCHES = 4


def staged(schedule: ScheduleName) -> PlanFile:
    stages = [(layers(1, zero=3),)] * 4
    of_plan = plan(*stages, pp=2, dp_shard=2, microbatches=MICROBATCHES, schedule=schedule)
    return plan_file(model_config("llama", layers=4), of_plan)


@pytest.mark.parametrize(("schedule", "times"), [("breadth-first", 1), ("interleaved-1f1b", MICROBATCHES)])
def test_a_chunk_is_gathered_and_reduced_once_for_all_microbatches(schedule: ScheduleName, times: int) -> None:
    """Gathers: everything for the forwards, and for the backwards what was freed, all but the head. One reduction of everything."""
    file = staged(schedule)
    charged = charged_step(file.model(), file.cluster, file.training, file.plan)
    found = [[rank.traffic["dp", name].size_bytes for name in ("all_gather", "reduce_scatter")] for rank in charged]
    assert found == [[times * 2 * FIRST, times * FIRST], [times * (SECOND + LAYERS), times * SECOND]]


def test_a_rank_holds_one_chunk_gathered_and_its_gradients_whole() -> None:
    """Beside a shard of all gradients, which is half of them, half of a rank's parameters are one chunk. Two layers are in the window of gathers
    besides."""
    file = staged("breadth-first")
    memory = estimate_plan(file.model(), file.cluster, file.training, file.plan).memory
    assert [part.gathered_parameters for part in memory] == [
        FIRST / 2 + LAYERS,
        (SECOND - 12_928) / 2 + 12_928 + LAYERS,
    ]
    assert [part.gradients for part in memory] == [FIRST / 2 + FIRST / 2, SECOND / 2 + SECOND / 2]


def test_the_planner_takes_it_where_gathers_take_most_of_the_step() -> None:
    """Four microbatches of a rank move 4 (2 + 1) x 75 kB at 1 GB/s under interleaved stages, 0.9 ms, and a quarter of it here. Such a CPU hides
    none of it. Below ZeRO-3 there is nothing to gather each time."""
    file = staged("breadth-first")
    choices = {"pp": 2, "dp_shard": 2, "micro_batch": 1, "zero_stage": 3}
    seconds = {}
    for name in (None, "interleaved-1f1b"):
        found = search(
            file.model(), file.cluster, file.training, fixed=Fixed.parse({**choices, "schedule": name}, source="test")
        )
        seconds[found.plan.schedule] = found.estimate.step_seconds
        assert found.gap == pytest.approx(0, abs=1e-3)
    assert list(seconds) == ["breadth-first", "interleaved-1f1b"]
    saved = 3 * (2 * FIRST + FIRST) / 1e9
    assert seconds["interleaved-1f1b"] - seconds["breadth-first"] > saved
