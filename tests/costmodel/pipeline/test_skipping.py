"""SkipPipe: paths that leave out stages in turn, and what a step of them takes and holds, by hand."""

import numpy as np
import pytest

from shardwright.base import SpecError
from shardwright.costmodel.pipeline.in_flight import alive_counts, peak_activation_bytes
from shardwright.costmodel.pipeline.schedule import make_schedule
from shardwright.costmodel.pipeline.simulation import simulate
from shardwright.costmodel.pipeline.stage_costs import StageCosts
from shardwright.costmodel.pipeline.step import step_parts, step_seconds
from shardwright.costmodel.pipeline.validation import validate_schedule
from shardwright.specs.schedules import ScheduleName, passes_stage, skips_stages, visits

NAME: ScheduleName = "skippipe-25"


def costs(forward: list[float], backward: list[float], **more: float) -> StageCosts:
    return StageCosts(pp=len(forward), forward=forward, backward=backward, **more)


@pytest.mark.parametrize(("pp", "microbatches"), [(4, 8), (8, 18), (8, 20), (12, 40), (16, 64)])
def test_paths_are_short_balanced_and_do_not_collide(pp: int, microbatches: int) -> None:
    passes = passes_stage(NAME, pp, pp, microbatches)
    assert (passes.sum(axis=0) == pp * 3 // 4).all()
    assert passes[[0, -1]].all()
    between = visits(NAME, pp, pp, microbatches)[1:-1]
    assert np.ptp(between) <= (0 if microbatches % (pp - 2) == 0 else pp // 4)
    arrivals = np.where(passes, np.arange(microbatches) + passes.cumsum(axis=0) - 1, -1)  # a stage a turn
    for stage in range(pp - 1):  # the loss takes them in turn
        turns = arrivals[stage][passes[stage]]
        assert len(set(turns)) == len(turns), stage


def test_a_step_of_two_microbatches_by_hand() -> None:
    """Microbatch 0 leaves out stage 1, microbatch 1 stage 2. With forwards of 1 s and backwards of 2 s, rank by rank:
    F0 0-1, F1 1-2, B0 7-9, B1 10-12; F1 2-3, B1 8-10; F0 1-2, B0 5-7; F0 2-3, B0 3-5, F1 5-6, B1 6-8. 1F1B takes 15 s."""
    schedule = make_schedule(NAME, 4, 1, 2)
    assert str(schedule) == "0F0,0F1,0B0,0B1\n1F1,1B1\n2F0,2B0\n3F0,3B0,3F1,3B1\n"
    given = costs([1.0] * 4, [2.0] * 4)
    timeline = simulate(schedule, given)
    found = {span.name: (span.start_seconds, span.end_seconds) for span in timeline.spans}
    assert found["3F1"] == (5, 6)
    assert found["1B1"] == (8, 10)
    assert found["0B1"] == (10, 12)
    assert float(step_seconds(NAME, given, 2)) == 12
    assert float(step_seconds("1f1b", given, 2)) == 15


def test_many_microbatches_take_the_time_of_the_busiest_rank() -> None:
    """Ends of 2 layers and middle stages of 4, each of which half of the microbatches pass: every rank has equal work, of which 1F1B with the
    same 12 layers in stages of 3 has half as much again."""
    given, even = costs([2, 4, 4, 2], [4, 8, 8, 4]), costs([3] * 4, [6] * 4)
    many = 400
    assert visits(NAME, 4, 4, many).tolist() == [many, many / 2, many / 2, many]
    parts = step_parts(NAME, given, many)
    assert float(parts.compute_seconds) == 6 * many
    assert float(parts.total_seconds) < 1.05 * 6 * many
    assert float(step_seconds("1f1b", even, many)) > 1.4 * float(parts.total_seconds)


def test_a_rank_holds_those_that_pass_it() -> None:
    """With twice the warm-up of 1F1B seven, five, three and one of all are in flight; a middle rank is passed by every second."""
    held = [int(counts.max()) for counts in alive_counts(NAME, 4, 1, 12)]
    assert held == [7, 3, 2, 1]
    kept = simulate(make_schedule(NAME, 4, 1, 12), costs([1.0] * 4, [2.0] * 4), activation_bytes=1.0).memory
    assert [curve.peak_bytes for curve in kept] == held
    assert peak_activation_bytes(NAME, 4, 12, np.ones(4)).tolist() == held


def test_a_message_goes_to_the_next_stage_of_the_path() -> None:
    given = costs([1.0] * 4, [2.0] * 4, send=1.0)
    spans = {span.name: span for span in simulate(make_schedule(NAME, 4, 1, 2), given).spans}
    assert spans["send 0F0"].end_seconds == spans["2F0"].start_seconds == 2
    assert spans["send 3B1"].end_seconds == spans["1B1"].start_seconds


@pytest.mark.parametrize(
    ("pp", "microbatches", "message"),
    [
        (6, 12, "needs pp divisible by 4, not 6; the nearest is"),
        (8, 5, "needs as many or more, not 5"),
        (2, 4, "pp of 4"),
    ],
)
def test_shapes_without_paths_are_refused(pp: int, microbatches: int, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make_schedule(NAME, pp, 1, microbatches)


def test_only_these_schedules_change_the_gradient() -> None:
    validate_schedule(make_schedule(NAME, 8, 1, 16))
    assert skips_stages(NAME)
    assert not skips_stages("1f1b")
    assert (passes_stage("1f1b", 4, 4, 3)).all()
