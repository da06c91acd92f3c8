"""The search for the best plan, and what is known of the answer."""

import time
from dataclasses import dataclass

from shardwright.costmodel.op_times.choice import op_times
from shardwright.costmodel.op_times.protocol import OpTimes
from shardwright.planner.space.fixed import Fixed
from shardwright.planner.stages.solve_entry import plan_of
from shardwright.planner.why.infeasible import infeasible
from shardwright.specs.cluster import ClusterSpec
from shardwright.specs.estimate import Estimate
from shardwright.specs.model.model import ModelSpec
from shardwright.specs.plan import Plan
from shardwright.specs.training import TrainingSpec

from .branch_and_bound import BranchAndBound, Progress


@dataclass(frozen=True)
class RunnerUp:
    """A good plan with another mesh, and the step that it takes."""

    plan: Plan
    step_seconds: float


@dataclass(frozen=True)
class SearchResult:
    """The best plan and what is known about it.

    Attributes:
        plan, estimate: the plan, and its estimate.
        bound_seconds: no plan of the space takes less than this by the cost model.
        candidates_total: entries of the space (mesh, ZeRO stage, microbatch, schedule, offload).
        candidates_solved: those whose stages were searched; the others can't beat the plan, or can't fit.
        complete: False where the time limit ended the search.
        seconds: how long the search took.
        fixed: what the search had to keep.
        runners_up: the best plans without interleaving with other meshes, those of the lowest bounds, fastest first.
    """

    plan: Plan
    estimate: Estimate
    bound_seconds: float
    candidates_total: int
    candidates_solved: int
    complete: bool
    seconds: float
    fixed: Fixed
    runners_up: tuple[RunnerUp, ...]

    @property
    def gap(self) -> float:
        """How much of the step a better plan might save at most: (step - bound) / step."""
        return max(0.0, 1 - self.bound_seconds / self.estimate.step_seconds)


def search(
    model: ModelSpec,
    cluster: ClusterSpec,
    training: TrainingSpec,
    *,
    fixed: Fixed | None = None,
    times: OpTimes | None = None,
    time_limit_seconds: float = 30.0,
    runners_up: int = 3,
    progress: Progress | None = None,
) -> SearchResult:
    """The plan with the shortest predicted step that fits, on all devices of the cluster.

    The closed form that is minimised equals the simulated timeline (a law of the cost model), so that simulating the
    best few would not change their order. `progress` is called with (solved, still open, best seconds).

    Raises:
        SpecError: nothing divides, or what is fixed contradicts itself.
        InfeasibleError: plans divide and none fits the memory; says what binds and what would fit.
    """
    started, fixed = time.perf_counter(), fixed or Fixed()
    run = BranchAndBound.start(model, cluster, training, fixed, times or op_times(cluster, training))
    run.run(time_limit_seconds, progress)
    if run.best is None:
        raise infeasible(model, cluster, training, fixed)
    plan = plan_of(run.best, run.space, model)
    solved = run.other_meshes(runners_up) if run.complete else []
    others = (RunnerUp(plan_of(found, run.space, model), found.step_seconds) for found in solved)
    return SearchResult(
        plan=plan,
        estimate=run.estimate(model, cluster, training, plan),
        bound_seconds=run.bound_seconds(),
        candidates_total=len(run.space),
        candidates_solved=run.solved,
        complete=run.complete,
        fixed=fixed,
        runners_up=tuple(others),
        seconds=time.perf_counter() - started,
    )
