"""The search for the best plan, and the facts that are known about its answer."""

import time

from shardwright.costmodel.op_times import OpTimes, op_times
from shardwright.planner.branching import (
    BranchAndBound,
    Progress,
    RunnerUp,
    SearchResult,
    infeasible,
    simplest,
    trade_offs,
)
from shardwright.planner.space import Fixed, check_runs, kept_by
from shardwright.planner.stages import plan_of
from shardwright.specs import ClusterSpec, TrainingSpec
from shardwright.specs.model import ModelSpec

# What is closer counts as equally fast. The 80% interval of an estimate is many times as wide (costmodel/intervals.toml).
TOLERANCE = 0.02


def search(
    model: ModelSpec,
    cluster: ClusterSpec,
    training: TrainingSpec,
    *,
    fixed: Fixed | None = None,
    times: OpTimes | None = None,
    time_limit_seconds: float = 30.0,
    runners_up: int = 3,
    tolerance: float = 0.0,
    list_trade_offs: bool = False,
    progress: Progress | None = None,
) -> SearchResult:
    """Return the plan with the shortest predicted step among those that fit, on all devices of the cluster.

    The search minimises a closed form that equals the simulated timeline (a law of the cost model). Simulating the best
    few plans would therefore not change their order. With a `tolerance` the plan is the simplest of those that take at most
    that share longer than the fastest (branching/simplest.py). `list_trade_offs` looks for plans that are faster, simpler or
    leave more memory free (branching/trade_offs.py). `progress` is called with (solved, still open, best seconds).

    Raises:
        SpecError: nothing divides, or the fixed choices contradict each other or the software.
        InfeasibleError: plans divide, but none fits the memory. The message names the limit that binds and what would
            fit.
    """
    started, fixed = time.perf_counter(), kept_by(fixed or Fixed(), training)
    if fixed.stages is None:
        check_runs(training, fixed)
    times = times or op_times(cluster, training)
    run = BranchAndBound.start(model, cluster, training, fixed, times)
    run.run(time_limit_seconds, progress)
    if run.best is None:
        raise infeasible(model, cluster, training, fixed, times)
    chosen = simplest(run, tolerance) if tolerance > 0 and run.complete else run.best
    plan, fastest = (plan_of(found, run.space, model) for found in (chosen, run.best))
    solved = run.other_meshes(runners_up, chosen) if run.complete else []
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
        fastest=None if fastest == plan else RunnerUp(fastest, run.best.step_seconds),
        trade_offs=trade_offs(run, chosen, model, cluster, training) if list_trade_offs and run.complete else (),
        seconds=time.perf_counter() - started,
    )
