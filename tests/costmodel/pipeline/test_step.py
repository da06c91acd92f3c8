"""Step time from stage costs: agreement with the simulation, known values, and the parts it is made of."""

from dataclasses import dataclass
from typing import get_args

import numpy as np
import pytest
from numpy.random import Generator

from shardwright.base.errors import SpecError
from shardwright.costmodel.pipeline.schedule import make_schedule
from shardwright.costmodel.pipeline.simulation import simulate
from shardwright.costmodel.pipeline.stage_costs import StageCosts
from shardwright.costmodel.pipeline.step import step_parts, step_seconds
from shardwright.specs.schedules import ScheduleName


@dataclass(frozen=True)
class Case:
    """A plan as far as the pipeline is concerned."""

    schedule: ScheduleName
    costs: StageCosts
    microbatches: int

    @property
    def simulated_seconds(self) -> float:
        order = make_schedule(self.schedule, self.costs.pp, self.costs.stages_per_rank, self.microbatches)
        return simulate(order, self.costs).step_seconds

    @property
    def seconds(self) -> float:
        return float(step_seconds(self.schedule, self.costs, self.microbatches))


def random_case(generator: Generator) -> Case:
    """Stages up to 3 times slower than others, sends from none to longer than a stage, extras and tails of any share."""
    names: tuple[ScheduleName, ...] = get_args(ScheduleName)
    schedule = names[generator.integers(len(names))]
    pp, stages_per_rank, microbatches = int(generator.integers(1, 17)), 1, int(generator.integers(1, 65))
    if schedule in ("zb-v", "v-half", "v-min", "dualpipe-v"):
        pp, stages_per_rank = max(2, pp), 2
        microbatches = max(microbatches, 2 * pp) if schedule == "dualpipe-v" else microbatches
    if schedule == "breadth-first":
        pp, stages_per_rank, microbatches = max(2, pp), int(generator.integers(2, 5)), min(microbatches, 16)
    if schedule == "interleaved-1f1b":
        pp, stages_per_rank = max(2, pp), int(generator.integers(2, 5))
        microbatches = pp * int(generator.integers(1, 64 // pp + 1))
    if schedule == "skippipe-25":
        pp = 4 * max(1, round(pp / 4))
        microbatches = max(microbatches, pp)
    return Case(schedule, random_costs(generator, pp, pp * stages_per_rank, ()), microbatches)


def random_costs(generator: Generator, pp: int, stages: int, batch: tuple[int, ...]) -> StageCosts:
    forward = np.exp(generator.uniform(-np.log(3) / 2, np.log(3) / 2, (*batch, stages)))
    backward = forward * generator.uniform(1, 3, (*batch, stages))
    return StageCosts(
        pp=pp,
        forward=forward,
        backward=backward,
        weight_gradient=backward * generator.uniform(0, 1, (*batch, stages)),
        overlap_saving=np.minimum(forward, backward[..., ::-1]) * generator.uniform(0, 1, (*batch, stages)),
        first_forward_extra=generator.choice([0, 1]) * generator.uniform(0, 2, (*batch, stages)),
        send=generator.choice([0, 0.05, 0.5, 2]) * generator.uniform(0, 1, (*batch, stages - 1)),
        reduce_tail=generator.choice([0, 5]) * generator.uniform(0, 1, (*batch, stages)),
        optimizer=generator.uniform(0, 1, (*batch, pp)),
    )


def test_200_random_plans_take_what_they_take_in_the_simulation() -> None:
    """Required within 1%; both are exact, so that they agree to rounding."""
    generator = np.random.default_rng(20)
    for _ in range(200):
        case = random_case(generator)
        assert case.seconds == pytest.approx(case.simulated_seconds, rel=1e-9), case


@pytest.mark.parametrize(
    ("schedule", "pp", "stages_per_rank", "microbatches"),
    [("1f1b", 4, 1, 700), ("1f1b", 1, 1, 300), ("interleaved-1f1b", 2, 2, 400), ("interleaved-1f1b", 4, 3, 256)],
)
def test_steps_of_many_microbatches_whose_steady_state_is_a_matrix_power(
    schedule: ScheduleName, pp: int, stages_per_rank: int, microbatches: int
) -> None:
    costs = random_costs(np.random.default_rng(21), pp, pp * stages_per_rank, ())
    case = Case(schedule, costs, microbatches)
    assert case.seconds == pytest.approx(case.simulated_seconds, rel=1e-9)


@pytest.mark.parametrize(
    ("schedule", "pp", "stages_per_rank", "microbatches"),
    [
        ("gpipe", 4, 1, 9),
        ("1f1b", 4, 1, 9),
        ("1f1b", 4, 1, 3),
        ("1f1b", 3, 1, 400),
        ("interleaved-1f1b", 4, 2, 12),
        ("interleaved-1f1b", 2, 3, 200),
        ("zb-h1", 4, 1, 9),
        ("zb-2p", 4, 1, 9),
        ("zb-v", 3, 2, 4),
        ("v-half", 3, 2, 7),
        ("v-min", 3, 2, 7),
        ("dualpipe-v", 2, 2, 9),
    ],
)
def test_an_array_of_plans_costs_what_each_plan_costs(
    schedule: ScheduleName, pp: int, stages_per_rank: int, microbatches: int
) -> None:
    costs = random_costs(np.random.default_rng(22), pp, pp * stages_per_rank, (3, 5))
    together = step_seconds(schedule, costs, microbatches)
    assert together.shape == (3, 5)
    for index in np.ndindex(3, 5):
        assert together[index] == pytest.approx(float(step_seconds(schedule, costs[index], microbatches)), rel=1e-12)


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
def test_a_uniform_pipeline_takes_the_textbook_time(schedule: ScheduleName) -> None:
    """(M + P - 1)(f + b): Narayanan et al. 2021 (arXiv 2104.04473), section 2.2.1."""
    costs = StageCosts(pp=4, forward=np.full(4, 2.0), backward=np.full(4, 3.0))
    assert Case(schedule, costs, 10).seconds == pytest.approx((10 + 4 - 1) * 5)


@pytest.mark.parametrize(("pp", "stages_per_rank", "microbatches"), [(2, 2, 2), (4, 2, 8), (4, 4, 16), (8, 3, 24)])
def test_interleaving_divides_the_bubble_by_the_stages_per_rank(
    pp: int, stages_per_rank: int, microbatches: int
) -> None:
    """Bubble (P - 1)(f + b) / v, f and b of the whole rank: Narayanan et al. 2021 (arXiv 2104.04473), section 2.2.2."""
    stages = pp * stages_per_rank
    costs = StageCosts(
        pp=pp, forward=np.full(stages, 2 / stages_per_rank), backward=np.full(stages, 3 / stages_per_rank)
    )
    parts = step_parts("interleaved-1f1b", costs, microbatches)
    assert float(parts.bubble_seconds) == pytest.approx((pp - 1) * 5 / stages_per_rank)
    assert float(parts.compute_seconds) == pytest.approx(microbatches * 5)


@pytest.mark.parametrize(("forward", "split"), [(1.0, (1.0, 1.0)), (2.0, (2.5, 2.0)), (1.0, (1.5, 1.0))])
def test_zb_h1_leaves_the_bubble_of_the_paper(forward: float, split: tuple[float, float]) -> None:
    """(P - 1)(T_F + T_B - T_W): Qi et al. 2023 (arXiv 2401.10241), table 1, their T_B being the input gradient's."""
    input_gradient, weight = split
    costs = StageCosts(pp=4, forward=np.full(4, forward), backward=input_gradient + weight, weight_gradient=weight)
    parts = step_parts("zb-h1", costs, 12)
    assert float(parts.bubble_seconds) == pytest.approx(3 * (forward + input_gradient - weight))


def test_zb_v_waits_only_for_its_first_microbatch_where_all_passes_take_equally_long() -> None:
    """No rank waits between its first and its last pass: Qi et al. 2023 (arXiv 2401.10241), section 6."""
    costs = StageCosts(pp=4, forward=np.ones(8), backward=2.0, weight_gradient=1.0)
    timeline = simulate(make_schedule("zb-v", 4, 2, 12), costs)
    for rank in range(4):
        spans = timeline.lane(rank, "compute")
        assert spans[0].start_seconds == rank
        assert spans[-1].end_seconds - rank == 12 * 6


@pytest.mark.parametrize("pp", range(1, 9))
def test_zb_2p_waits_only_for_its_first_microbatch_where_all_passes_take_equally_long(pp: int) -> None:
    """As ZB-H2 in Qi et al. 2023 (arXiv 2401.10241), figure 3: from 2 pp - 1 microbatches on. One fewer leaves a bubble."""
    costs = StageCosts(pp=pp, forward=np.ones(pp), backward=2.0, weight_gradient=1.0)
    for microbatches in range(2 * pp - 1, 3 * pp + 1):
        timeline = simulate(make_schedule("zb-2p", pp, 1, microbatches), costs)
        for rank in range(pp):
            spans = timeline.lane(rank, "compute")
            assert spans[0].start_seconds == rank
            assert spans[-1].end_seconds == rank + 3 * microbatches
    if pp > 1:
        assert Case("zb-2p", costs, 2 * pp - 3).seconds > 3 * (2 * pp - 3) + pp - 1


@pytest.mark.parametrize("pp", [2, 3, 4, 8, 16])
def test_less_memory_costs_v_half_and_v_min_a_bubble_below_that_of_1f1b(pp: int) -> None:
    """With passes of 1 on a stage, microbatches take 6: about 3 pp of bubble in V-Half and 4 pp in V-Min, 6 (pp - 1) in 1F1B.

    The authors' table: p / 2m and 2p / 3m of the step (huggingface.co/spaces/sail/pipeline-parallelism-with-controllable-memory).
    """
    for microbatches in (2 * pp, 4 * pp):
        halves = StageCosts(pp=pp, forward=np.ones(2 * pp), backward=2.0, weight_gradient=1.0)
        wholes = StageCosts(pp=pp, forward=np.full(pp, 2.0), backward=4.0, weight_gradient=2.0)
        names: tuple[ScheduleName, ...] = ("zb-v", "v-half", "v-min")
        none, half, least = (Case(name, halves, microbatches).seconds - 6 * microbatches for name in names)
        assert none == pp - 1
        assert half == {2: 1, 3: 5, 4: 5, 8: 17, 16: 41}[pp] <= 3 * pp
        assert max(none, half) <= least <= 4 * pp
        assert Case("1f1b", wholes, microbatches).seconds - 6 * microbatches == 6 * (pp - 1)
        assert least < 6 * (pp - 1)
        assert none < half or pp == 2


def test_dualpipe_v_saves_what_its_overlapped_pairs_save() -> None:
    costs, saving = StageCosts(pp=2, forward=np.ones(4), backward=np.ones(4), overlap_saving=0.5), 0.5
    parts = step_parts("dualpipe-v", costs, 10)
    # Rank 0 overlaps 7 pairs one way and 8 the other (see overlap_counts), and so does rank 1.
    assert float(parts.overlap_seconds) == 15 * saving
    assert float(parts.compute_seconds) == 10 * 4 - 15 * saving
    apart = StageCosts(pp=2, forward=np.ones(4), backward=np.ones(4))
    assert Case("dualpipe-v", costs, 10).seconds < Case("dualpipe-v", apart, 10).seconds


def test_on_one_rank_nothing_is_lost() -> None:
    costs = StageCosts(pp=1, forward=[2], backward=[3], first_forward_extra=[1], reduce_tail=[4], optimizer=[5])
    parts = step_parts("1f1b", costs, 6)
    assert Case("1f1b", costs, 6).seconds == 6 * 5 + 1 + 4 + 5
    assert (float(parts.bubble_seconds), float(parts.transfer_seconds)) == (0, 0)


def test_what_rounding_leaves_over_is_no_bubble() -> None:
    for share in np.linspace(0.1, 0.2, 50):
        costs = StageCosts(
            pp=1,
            forward=[share / 3],
            backward=[share / 7],
            first_forward_extra=[share / 11],
            reduce_tail=[share / 13],
            optimizer=[share / 17],
        )
        assert float(step_parts("1f1b", costs, 7).bubble_seconds) == 0


def test_sends_between_chunks_hide_behind_compute_in_an_interleaved_steady_state() -> None:
    """A message has one action's time to arrive, so that a send of that length costs only where the pipe fills and drains."""
    short, long = (StageCosts(pp=4, forward=np.ones(8), backward=np.ones(8), send=send) for send in (0.0, 0.9))
    extra = [
        Case("interleaved-1f1b", long, microbatches).seconds - Case("interleaved-1f1b", short, microbatches).seconds
        for microbatches in (16, 160)
    ]
    assert extra[0] == pytest.approx(extra[1])


def test_the_parts_are_of_the_rank_with_the_most_work_and_add_up() -> None:
    costs = StageCosts(
        pp=3,
        forward=[1, 2, 1],
        backward=[2, 4, 2],
        first_forward_extra=[0.5, 0.25, 0.5],
        send=[0.5, 0.5],
        reduce_tail=[1, 2, 3],
        optimizer=[1, 2, 0],
    )
    parts = step_parts("1f1b", costs, 5)
    assert int(parts.rank) == 1
    assert float(parts.compute_seconds) == 5 * 6
    assert float(parts.gather_seconds) == 0.25
    assert float(parts.reduce_seconds) == 2
    assert float(parts.optimizer_seconds) == 2
    quick = Case("1f1b", costs.without_sends(), 5).seconds
    assert float(parts.transfer_seconds) == pytest.approx(Case("1f1b", costs, 5).seconds - quick)
    assert float(parts.transfer_seconds) > 0
    assert float(parts.bubble_seconds) == pytest.approx(quick - 30 - 0.25 - 2 - 2)
    assert float(parts.total_seconds) == pytest.approx(Case("1f1b", costs, 5).simulated_seconds)


def test_a_schedule_that_does_not_exist_is_refused() -> None:
    costs = StageCosts(pp=4, forward=np.ones(8), backward=np.ones(8))
    with pytest.raises(SpecError, match="1f1b needs one stage on each rank, not 8"):
        step_seconds("1f1b", costs, 8)
    with pytest.raises(SpecError, match="divisible by pp: 6 by 4"):
        step_seconds("interleaved-1f1b", costs, 6)
