"""The oracle prices plans as the cost model estimates them, one by one."""

import random
from itertools import islice

import pytest

from shardwright.base.errors import InfeasibleError
from shardwright.costmodel.checks import check_memory
from shardwright.costmodel.evaluate import estimate_plan
from shardwright.planner.space.fixed import Fixed
from shardwright.specs.plan import Plan
from shardwright.specs.schedules import ScheduleName
from tests.planner.brute_force import all_plans, fastest, one_by_one
from tests.planner.mixed.mixed_problems import random_mixed_problem
from tests.planner.priced_plans import priced_plans
from tests.planner.rows_once import rows_once
from tests.planner.small_problems import Problem, random_problem

_SAMPLE = 4
_SCHEDULES: tuple[ScheduleName, ...] = (
    "1f1b", "gpipe", "interleaved-1f1b", "breadth-first", "zb-h1", "zb-2p", "zb-v", "v-half", "v-min", "dualpipe-v"
)  # fmt: skip


def _fits(problem: Problem, plan: Plan) -> bool:
    try:
        check_memory(estimate_plan(*problem, plan), problem.cluster)
    except InfeasibleError:
        return False
    return True


def _check(seed: int, fixed: Fixed) -> int:
    """Compare a sample of the plans of a small problem, and count it."""
    problem = random_problem(seed)
    if problem.model.layer_count > 4 or problem.cluster.devices > 4:
        return 0
    each = [
        (plan, seconds, peak, fits)
        for some in priced_plans(*problem, all_plans(*problem, fixed))
        for plan, seconds, peak, fits in zip(some.plans, some.step_seconds, some.peak_bytes, some.fits, strict=True)
    ]
    sample = random.Random(seed).sample(each, k=min(_SAMPLE, len(each)))
    for plan, seconds, peak, fits in sample:
        estimate = estimate_plan(*problem, plan)
        assert seconds == pytest.approx(estimate.step_seconds, rel=1e-12)
        assert peak == pytest.approx(estimate.peak_memory_bytes, rel=1e-12)
        assert fits == _fits(problem, plan)
    return len(sample)


def test_plans_are_priced_as_they_are_estimated() -> None:
    assert sum(_check(seed, Fixed(micro_batch=1, pp=1)) for seed in range(3000, 3010)) > 3 * _SAMPLE


@pytest.mark.parametrize("schedule", _SCHEDULES)
def test_so_they_are_under_every_schedule(schedule: ScheduleName) -> None:
    """In pipelines of models that have enough layers for it."""
    fixed = Fixed(schedule=schedule, pp=2, micro_batch=1, offload_optimizer=0)
    assert sum(_check(seed, fixed) for seed in range(3030, 3050)) > 2


def test_so_they_are_with_shares_on_the_host() -> None:
    within = {"offload_optimizer": "0,0.5", "offload_activations": "0,0.25,1"}
    fixed = Fixed.parse(
        {"schedule": "1f1b", "micro_batch": 1, "pp": 2, "zero_stage": 0, "within": within}, source="test"
    )
    assert sum(_check(seed, fixed) for seed in range(3024, 3029)) > _SAMPLE


def test_so_they_are_where_the_host_updates_one_step_late() -> None:
    fixed = Fixed(delayed_update=True, micro_batch=1, pp=2, zero_stage=0)
    assert sum(_check(seed, fixed) for seed in range(3024, 3029)) > _SAMPLE


def test_the_fastest_is_that_of_single_estimates() -> None:
    problem, fixed = random_problem(3000), Fixed(micro_batch=1, zero_stage=1, offload_optimizer=0)
    steps = one_by_one(*problem, all_plans(*problem, fixed))
    assert fastest(*problem, fixed) == pytest.approx(min(steps), rel=1e-12)


def test_rows_taken_from_earlier_plans_change_no_step() -> None:
    """Of two unlike groups, in both orders."""
    model, cluster, training = random_mixed_problem(4)

    def steps() -> list[float]:
        each = (cluster.in_order(order) for order in ((0, 1), (1, 0)))
        fixed = Fixed(micro_batch=1, offload_optimizer=0, schedule="1f1b")
        return [
            seconds
            for one in each
            for seconds in one_by_one(model, one, training, islice(all_plans(model, one, training, fixed), 0, None, 3))
        ]

    alone = steps()
    with rows_once():
        assert steps() == alone
    assert len(set(alone)) > 10
