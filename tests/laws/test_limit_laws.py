"""Laws of limits: a search among several values finds the best of what it finds with each value fixed."""

import math
import random

import pytest

from shardwright.base.errors import InfeasibleError, SpecError
from shardwright.costmodel.checks import check_memory
from shardwright.planner.best_plan import search
from shardwright.planner.space.asked import asked
from shardwright.planner.space.enumerate import enumerate_space
from shardwright.planner.space.fixed import Fixed
from shardwright.planner.space.limits import LIMITED
from tests.planner.brute_force import fastest
from tests.planner.small_problems import Problem, random_problem

_NUMBERS = ("pp", "tp", "cp", "ep", "dp_shard", "dp_replicate", "micro_batch", "zero_stage", "stages_per_rank")
_NAMES = ("schedule", "context_parallel")
_SEARCHED = ("1f1b", "interleaved-1f1b", "gpipe")


def _step(problem: Problem, fixed: Fixed) -> float:
    """Seconds of the best plan; infinite where none divides or fits."""
    try:
        return search(*problem, fixed=fixed, runners_up=0).estimate.step_seconds
    except (InfeasibleError, SpecError):
        return math.inf


def _some(chance: random.Random, choice: str) -> list[int | str]:
    if choice == "schedule":
        return list(chance.sample(_SEARCHED, k=2))
    if choice == "context_parallel":
        return list(chance.sample(LIMITED[choice].values, k=2))
    return list(chance.sample([1, 2, 3] if choice == "zero_stage" else [1, 2, 3, 4, 8], k=chance.choice([2, 3])))


@pytest.mark.parametrize("seed", range(2000, 2060))
def test_several_values_are_the_best_of_each(seed: int) -> None:
    """Two choices at once, each limited to some values, divisors or not."""
    chance, problem = random.Random(seed), random_problem(seed)
    one, other = chance.sample((*_NUMBERS, *_NAMES), k=2)
    values = {one: _some(chance, one), other: _some(chance, other)}
    each = [_step(problem, Fixed.parse({one: a, other: b}, source="law")) for a in values[one] for b in values[other]]
    assert _step(problem, Fixed.parse({"within": values}, source="law")) == pytest.approx(min(each), rel=1e-9)


@pytest.mark.parametrize("seed", range(2060, 2090))
def test_a_range_is_all_its_values(seed: int) -> None:
    chance, problem = random.Random(seed), random_problem(seed)
    choice = chance.choice(("pp", "tp", "dp_shard", "micro_batch", "stages_per_rank"))
    low, high = sorted(chance.sample(range(1, 9), k=2))
    each = [_step(problem, Fixed.parse({choice: value}, source="law")) for value in range(low, high + 1)]
    limited = asked({choice: f"{low}..{high}"})
    assert _step(problem, limited) == pytest.approx(min(each), rel=1e-9)


@pytest.mark.parametrize("seed", range(2090, 2110))
def test_a_forbidden_axis_stays_at_one(seed: int) -> None:
    chance, problem = random.Random(seed), random_problem(seed)
    axis = chance.choice(("pp", "tp", "cp", "ep", "dp_replicate", "dp_shard"))
    assert _step(problem, asked({}, forbid=[axis])) == _step(problem, Fixed.parse({axis: 1}, source="law"))


@pytest.mark.parametrize("seed", range(2110, 2130))
def test_a_forbidden_value_is_not_chosen_and_the_rest_stays_free(seed: int) -> None:
    """All other values in the space are searched, and none that it leaves out."""
    chance, problem = random.Random(seed), random_problem(seed)
    choice = chance.choice(("tp", "pp", "zero_stage", "micro_batch"))
    values = sorted(set(enumerate_space(*problem).column(choice).tolist()))
    out = chance.choice(values)
    each = [_step(problem, Fixed.parse({choice: value}, source="law")) for value in values if value != out]
    found = _step(problem, asked({}, forbid=[f"{choice}={out}"]))
    assert found == pytest.approx(min(each, default=math.inf), rel=1e-9)


@pytest.mark.parametrize("seed", range(2130, 2150))
def test_layers_take_any_of_the_policies_that_are_listed(seed: int) -> None:
    """Limited recomputation equals brute force: each layer has its own policy, so a mix may beat every single one."""
    problem = random_problem(seed)
    if problem.model.layer_count > 3 or problem.cluster.devices > 4:
        return
    fixed = Fixed.parse({"micro_batch": 1, "offload_optimizer": 0, "within": {"recompute": "none,full"}}, source="law")
    expected = fastest(*problem, fixed)
    if expected is None:
        with pytest.raises(InfeasibleError):
            search(*problem, fixed=fixed, explain_none="nothing")
        return
    found = search(*problem, fixed=fixed, runners_up=0)
    assert found.estimate.step_seconds == pytest.approx(expected, rel=1e-9)
    check_memory(found.estimate, problem.cluster)
    assert {run.recompute for stage in found.plan.stages for run in stage.layers} <= {"none", "full"}
