"""Of plans that take nearly as long as the fastest the simplest is chosen, and no simpler one of all plans is as near."""

import numpy as np
import pytest

from shardwright.base.errors import InfeasibleError, SpecError
from shardwright.costmodel.checks import check_memory
from shardwright.planner.best_plan import OF_OTHER_AXES, search
from shardwright.planner.branching.simplest import _kinds
from shardwright.planner.space.enumerate import enumerate_space
from shardwright.planner.space.fixed import Fixed
from shardwright.specs.mesh import PIPELINE_OUTERMOST
from shardwright.specs.plan import Plan
from shardwright.specs.training import TrainingSpec
from tests.planner.brute_force import all_plans
from tests.planner.priced_plans import priced_plans
from tests.planner.simplicity import simplicity
from tests.planner.small_problems import Problem, random_problem, tiny_cluster, tiny_model

_TOLERANCE = 0.15
_FEW = Fixed(micro_batch=1, zero_stage=1, order=PIPELINE_OUTERMOST)


def _all_near(problem: Problem, best: Plan, seconds: float) -> list[Plan]:
    """The plans that count as fast as `best`, which takes so many seconds."""
    each = priced_plans(*problem, all_plans(*problem, _FEW))
    timed = [(plan, step_seconds) for some in each for plan, step_seconds, _ in some.fitting]
    return [plan for plan, step_seconds in timed if step_seconds <= seconds * (1 + _share(plan, best))]


def _share(plan: Plan, best: Plan) -> float:
    """The share by which a plan may be slower than the best."""
    axes, of_best = ((*simplicity(one)[:2], one.mesh.pp > 1) for one in (plan, best))
    return _TOLERANCE * (OF_OTHER_AXES if axes < of_best else 1)


@pytest.mark.parametrize("seed", range(600, 640))
def test_no_plan_as_near_is_simpler(seed: int) -> None:
    problem = random_problem(seed)
    if problem.model.layer_count > 3 or problem.cluster.devices > 4:
        return
    try:
        best = search(*problem, fixed=_FEW, runners_up=0, explain_none="nothing")
        found = search(*problem, fixed=_FEW, tolerance=_TOLERANCE, runners_up=0, explain_none="nothing")
    except (InfeasibleError, SpecError):
        return
    most = best.estimate.step_seconds * (1 + _share(found.plan, best.plan))
    assert found.estimate.step_seconds <= most * (1 + 1e-9)
    check_memory(found.estimate, problem.cluster)
    simplest = min(simplicity(plan) for plan in _all_near(problem, best.plan, best.estimate.step_seconds))
    assert simplicity(found.plan) == simplest
    if found.plan == best.plan:
        assert found.fastest is None
    else:
        assert found.fastest is not None
        assert found.fastest.step_seconds == pytest.approx(best.estimate.step_seconds, rel=1e-9)


def test_the_host_counts_as_two_axes_and_comes_before_the_pipeline() -> None:
    space = enumerate_space(
        tiny_model(layers=4, experts=4), tiny_cluster(devices=8), TrainingSpec(seq_len=4096, global_batch=8)
    )
    both = np.minimum(space.column("dp_replicate"), space.column("dp_shard"))
    columns = [space.column("pp") > 1, both > 1, *(space.column(name) > 1 for name in ("cp", "tp"))]
    on_host = space.column("offload_optimizer").astype(int)
    axes = (np.sum(columns, axis=0) + 2 * on_host).tolist()
    pipeline = np.where(space.splits, 1_000, columns[0] * space.stages_per_rank).tolist()
    keys = list(zip(axes, on_host.tolist(), pipeline, strict=True))
    numbers = _kinds(space).tolist()
    assert len(set(zip(keys, numbers, strict=True))) == len(set(keys)) == len(set(numbers))
    assert [key for _, key in sorted(zip(numbers, keys, strict=True))] == sorted(keys)
