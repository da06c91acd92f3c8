"""The short list of other plans: each better than the chosen one in some way, none dominated, and as good as all plans allow."""

import pytest

from shardwright.base.errors import InfeasibleError, SpecError
from shardwright.costmodel.checks import check_memory
from shardwright.costmodel.evaluate import estimate_plan
from shardwright.costmodel.op_times.constants import CALIBRATED
from shardwright.costmodel.tables.memory import usable_bytes
from shardwright.planner.best_plan import search
from shardwright.planner.branching.result import SearchResult
from shardwright.planner.branching.trade_offs import WITHIN
from shardwright.planner.space.fixed import Fixed
from tests.planner.brute_force import all_plans
from tests.planner.priced_plans import priced_plans
from tests.planner.simplicity import simplicity
from tests.planner.small_problems import Problem, random_problem

_FEW = Fixed(micro_batch=1, zero_stage=1)
_SEEDS = range(600, 640)


def _searched(seed: int) -> tuple[Problem, SearchResult] | None:
    problem = random_problem(seed)
    if problem.model.layer_count > 3 or problem.cluster.devices > 4:
        return None
    try:
        return problem, search(*problem, fixed=_FEW, tolerance=0.02, list_trade_offs=True, runners_up=0)
    except (InfeasibleError, SpecError):
        return None


@pytest.mark.parametrize("seed", _SEEDS)
def test_each_is_better_in_some_way_and_none_is_dominated(seed: int) -> None:
    if (searched := _searched(seed)) is None:
        return
    problem, found = searched
    usable = usable_bytes(problem.cluster.node.device, CALIBRATED)
    best = (found.fastest.step_seconds if found.fastest else found.estimate.step_seconds) * (1 + 1e-9)
    rated = [(found.estimate.step_seconds, usable - found.estimate.peak_memory_bytes, simplicity(found.plan))]
    for other in found.trade_offs:
        check_memory(other.estimate, problem.cluster)
        assert other.estimate == estimate_plan(*problem, other.plan)
        assert other.free_bytes == pytest.approx(usable - other.estimate.peak_memory_bytes)
        assert other.estimate.step_seconds <= best * (1 + WITHIN)
        rated.append((other.estimate.step_seconds, other.free_bytes, simplicity(other.plan)))
    for one in rated[1:]:
        for other_one in rated:
            dominated = other_one[0] <= one[0] and other_one[1] >= one[1] and other_one[2] <= one[2]
            assert other_one is one or not dominated
    assert len(found.trade_offs) <= 3


@pytest.mark.parametrize("seed", _SEEDS)
def test_no_plan_within_reach_is_simpler_or_leaves_much_more_free(seed: int) -> None:
    """Against every plan. The room is halved three times, so an eighth of the memory may be missed."""
    if (searched := _searched(seed)) is None:
        return
    problem, found = searched
    usable = usable_bytes(problem.cluster.node.device, CALIBRATED)
    fastest = found.fastest.step_seconds if found.fastest else found.estimate.step_seconds
    simplest, freest = simplicity(found.plan), 0.0
    for some in priced_plans(*problem, all_plans(*problem, _FEW)):
        for plan, seconds, peak_bytes in some.fitting:
            if seconds <= fastest * (1 + WITHIN):
                simplest, freest = min(simplest, simplicity(plan)), max(freest, usable - peak_bytes)
    listed = [(simplicity(found.plan), usable - found.estimate.peak_memory_bytes)]
    listed += [(simplicity(other.plan), other.free_bytes) for other in found.trade_offs]
    assert min(simple for simple, _ in listed) == simplest
    assert max(free for _, free in listed) >= freest - usable * (1 / 8 + 0.02)


def test_the_list_does_not_change_the_plan_and_is_the_same_each_time() -> None:
    problem = random_problem(602)
    with_list, again = (search(*problem, tolerance=0.02, list_trade_offs=True) for _ in range(2))
    assert with_list.plan == search(*problem, tolerance=0.02).plan
    assert with_list.trade_offs == again.trade_offs
