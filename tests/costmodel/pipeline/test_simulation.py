"""The simulation: tiny scenarios and their literal timelines."""

from itertools import pairwise

import numpy as np
import pytest

from shardwright.base.errors import SpecError
from shardwright.costmodel.pipeline.in_flight import peak_activation_bytes
from shardwright.costmodel.pipeline.schedule import Schedule, make_schedule
from shardwright.costmodel.pipeline.simulation import simulate
from shardwright.costmodel.pipeline.stage_costs import StageCosts
from shardwright.specs.results.timeline import Timeline
from shardwright.specs.schedules import ScheduleName

SPLIT: list[tuple[ScheduleName, int, int, int]] = [
    ("zb-h1", 4, 1, 9),
    ("zb-2p", 4, 1, 9),
    ("zb-v", 3, 2, 7),
    ("v-half", 3, 2, 7),
    ("v-min", 3, 2, 7),
    ("dualpipe-v", 3, 2, 8),
]


def drawn(timeline: Timeline) -> list[str]:
    """One line a span: rank, lane, name, start and end."""
    return [f"{s.rank} {s.lane}: {s.name} {s.start_seconds:g}-{s.end_seconds:g}" for s in timeline.spans]


def test_1f1b_on_two_ranks() -> None:
    costs = StageCosts(
        pp=2,
        forward=[1, 2],
        backward=[2, 3],
        first_forward_extra=[0.5, 0],
        send=[0.25],
        reduce_tail=[1, 4],
        optimizer=[1, 2],
    )
    assert drawn(simulate(make_schedule("1f1b", 2, 1, 2), costs)) == [
        "0 data parallel: gather 0 0-0.5",
        "0 compute: 0F0 0.5-1.5",
        "0 pipeline send: send 0F0 1.5-1.75",
        "0 compute: 0F1 1.5-2.5",
        "1 compute: 1F0 1.75-3.75",
        "0 pipeline send: send 0F1 2.5-2.75",
        "1 compute: 1B0 3.75-6.75",
        "1 pipeline send: send 1B0 6.75-7",
        "1 compute: 1F1 6.75-8.75",
        "0 compute: 0B0 7-9",
        "1 compute: 1B1 8.75-11.75",
        "1 pipeline send: send 1B1 11.75-12",
        "1 data parallel: reduce 1 11.75-15.75",
        "0 compute: 0B1 12-14",
        "0 data parallel: reduce 0 14-15",
        "0 optimizer: optimizer 15.75-16.75",
        "1 optimizer: optimizer 15.75-17.75",
    ]


def test_interleaved_on_two_ranks_which_reduce_their_stages_one_after_the_other() -> None:
    costs = StageCosts(pp=2, forward=[1, 1, 1, 1], backward=[2, 2, 2, 2], reduce_tail=[1, 1, 2, 2])
    timeline = simulate(make_schedule("interleaved-1f1b", 2, 2, 2), costs)
    assert [line for line in drawn(timeline) if line.startswith("0")] == [
        "0 compute: 0F0 0-1",
        "0 compute: 0F1 1-2",
        "0 compute: 2F0 2-3",
        "0 compute: 2F1 3-4",
        "0 compute: 2B0 6-8",
        "0 compute: 2B1 9-11",
        "0 compute: 0B0 11-13",
        "0 compute: 0B1 13-15",
        "0 data parallel: reduce 2 15-17",
        "0 data parallel: reduce 0 17-18",
    ]
    assert timeline.step_seconds == 18


def test_memory_is_held_from_the_start_of_a_forward_to_the_end_of_its_backward() -> None:
    costs = StageCosts(pp=2, forward=[1, 1], backward=[2, 2], first_forward_extra=[0.5, 0.5])
    timeline = simulate(make_schedule("1f1b", 2, 1, 2), costs, activation_bytes=[10, 20], static_bytes=[100, 200])
    first, second = timeline.memory
    assert first.seconds.tolist() == [0, 0, 1.5, 7, 10]
    assert first.bytes.tolist() == [100, 110, 120, 110, 100]
    assert second.seconds.tolist() == [0, 1.5, 5, 5, 8]
    assert second.bytes.tolist() == [200, 220, 200, 220, 200]
    assert (first.peak_bytes, second.peak_bytes) == (120, 220)


@pytest.mark.parametrize(
    ("name", "pp", "stages_per_rank", "microbatches"),
    [("gpipe", 3, 1, 4), ("1f1b", 4, 1, 9), ("1f1b", 4, 1, 3), ("interleaved-1f1b", 4, 3, 8), *SPLIT],
)
def test_the_memory_peak_is_the_one_the_memory_model_uses(
    name: ScheduleName, pp: int, stages_per_rank: int, microbatches: int
) -> None:
    generator = np.random.default_rng(5)
    stages = pp * stages_per_rank
    sizes = generator.lognormal(size=stages)
    costs = StageCosts(pp=pp, forward=generator.uniform(1, 3, stages), backward=generator.uniform(1, 3, stages))
    schedule = make_schedule(name, pp, stages_per_rank, microbatches)
    for postponed in (sizes, 3 * sizes):
        timeline = simulate(schedule, costs, activation_bytes=sizes, postponed_bytes=postponed)
        peaks = [curve.peak_bytes for curve in timeline.memory]
        np.testing.assert_allclose(peaks, peak_activation_bytes(name, pp, microbatches, sizes, postponed))


def test_equal_runs_are_equal_to_the_bit_also_where_everything_ties() -> None:
    costs = StageCosts(pp=4, forward=np.ones(8), backward=np.ones(8), send=1.0)
    schedule = make_schedule("interleaved-1f1b", 4, 2, 8)
    assert simulate(schedule, costs).spans == simulate(schedule, costs).spans


def test_no_two_spans_of_a_rank_compute_at_once() -> None:
    generator = np.random.default_rng(6)
    costs = StageCosts(pp=4, forward=generator.uniform(0, 2, 8), backward=generator.uniform(0, 2, 8), send=0.3)
    timeline = simulate(make_schedule("interleaved-1f1b", 4, 2, 12), costs)
    for rank in range(4):
        spans = timeline.lane(rank, "compute")
        assert len(spans) == 2 * 2 * 12
        assert all(before.end_seconds <= after.start_seconds for before, after in pairwise(spans))


def test_a_v_shaped_schedule_runs_on_the_ranks_that_hold_its_stages() -> None:
    costs = StageCosts(pp=2, forward=[1, 2, 3, 4], backward=[1, 1, 1, 1], reduce_tail=[0, 5, 0, 0])
    timeline = simulate(Schedule.parse("0F0,3F0,3B0,0B0\n1F0,2F0,2B0,1B0\n"), costs)
    assert [span.name for span in timeline.lane(0, "compute")] == ["0F0", "3F0", "3B0", "0B0"]
    assert [span.name for span in timeline.lane(1, "data parallel")] == ["reduce 1"]
    assert timeline.step_seconds == 10 + 3 + 5


def test_a_split_backward_sends_its_gradient_before_the_weights_have_theirs() -> None:
    costs = StageCosts(pp=2, forward=[1, 1], backward=[3, 3], weight_gradient=[1, 1], send=[0.5])
    timeline = simulate(make_schedule("zb-h1", 2, 1, 2), costs, activation_bytes=1.0)
    assert drawn(timeline) == [
        "0 compute: 0F0 0-1",
        "0 pipeline send: send 0F0 1-1.5",
        "0 compute: 0F1 1-2",
        "1 compute: 1F0 1.5-2.5",
        "0 pipeline send: send 0F1 2-2.5",
        "1 compute: 1I0 2.5-4.5",
        "1 pipeline send: send 1I0 4.5-5",
        "1 compute: 1F1 4.5-5.5",
        "0 compute: 0I0 5-7",
        "1 compute: 1I1 5.5-7.5",
        "0 compute: 0W0 7-8",
        "1 pipeline send: send 1I1 7.5-8",
        "1 compute: 1W0 7.5-8.5",
        "0 compute: 0I1 8-10",
        "1 compute: 1W1 8.5-9.5",
        "0 compute: 0W1 10-11",
    ]
    assert timeline.memory[1].seconds.tolist() == [0, 1.5, 4.5, 8.5, 9.5]
    assert timeline.memory[1].bytes.tolist() == [0, 1, 2, 1, 0]


def test_what_an_input_gradient_recomputed_is_held_until_the_weight_gradient() -> None:
    costs = StageCosts(pp=1, forward=[1], backward=[3], weight_gradient=[1])
    timeline = simulate(make_schedule("zb-h1", 1, 1, 1), costs, activation_bytes=2.0, postponed_bytes=7.0)
    assert timeline.memory[0].seconds.tolist() == [0, 0, 3, 4]
    assert timeline.memory[0].bytes.tolist() == [0, 2, 7, 0]


def test_an_overlapped_pair_starts_when_both_messages_are_there_and_sends_when_both_passes_are_done() -> None:
    schedule = Schedule.parse("0F0,0F1,0B0,0B1\n1F0,(1F1;1B0)OVERLAP_F_B,1B1\n")
    costs = StageCosts(pp=2, forward=[3, 1], backward=[2, 2], overlap_saving=[0, 0.5])
    timeline = simulate(schedule, costs, activation_bytes=1.0)
    assert drawn(timeline) == [
        "0 compute: 0F0 0-3",
        "0 compute: 0F1 3-6",
        "1 compute: 1F0 3-4",
        "1 compute: (1F1;1B0)OVERLAP_F_B 6-8.5",
        "1 compute: 1B1 8.5-10.5",
        "0 compute: 0B0 8.5-10.5",
        "0 compute: 0B1 10.5-12.5",
    ]
    assert timeline.memory[1].seconds.tolist() == [0, 3, 6, 8.5, 10.5]
    assert timeline.memory[1].bytes.tolist() == [0, 1, 2, 1, 0]


def test_costs_of_another_size_and_schedules_that_cannot_run_are_refused() -> None:
    costs = StageCosts(pp=2, forward=[1, 1], backward=[1, 1])
    with pytest.raises(SpecError, match=r"costs of 2 stages on pp 2 .* do not fit a schedule of 4 stages on pp 4"):
        simulate(make_schedule("1f1b", 4, 1, 2), costs)
    with pytest.raises(SpecError, match=r"batch axes \(3,\)"):
        simulate(make_schedule("1f1b", 2, 1, 2), StageCosts(pp=2, forward=np.ones((3, 2)), backward=1.0))
    with pytest.raises(SpecError, match="deadlock: 0B0 waits for 1B0"):
        simulate(Schedule.parse("0F0,0B0,0F1,0B1\n1F1,1B1,1F0,1B0\n"), costs)
