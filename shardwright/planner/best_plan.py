"""The search for the best plan, and the facts that are known about its answer."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

from shardwright.base import InfeasibleError
from shardwright.costmodel import check_optimizer, check_trainable
from shardwright.costmodel.op_times import CALIBRATED, OpTimes, op_times
from shardwright.planner.branching import (
    AsGiven,
    Found,
    Portfolio,
    Progress,
    RunnerUp,
    SearchResult,
    infeasible,
    simplest,
    trade_offs,
)
from shardwright.planner.space import (
    Fixed,
    OpenChoices,
    changed,
    check_runs,
    keeps,
    kept_by,
    last_resorts,
    training_variants,
    unstated_variants,
)
from shardwright.planner.stages import plan_of
from shardwright.specs import ClusterSpec, Plan, TrainingSpec
from shardwright.specs.model import ModelSpec

# What is closer counts as equally fast. `python -m shardwright.calibration.plan_pairs` holds two published plans of a job against each
# other: with one mesh, differences are predicted with a median error of 2.5%. With another mesh a predicted difference below 4% says
# little about which plan is faster, and one of 4% to 8% is right in 92% of the pairs.
TOLERANCE = 0.02
OF_OTHER_AXES = 2.0
"""Between plans with other axes this many tolerances count as none."""

ExplainNone = Literal["changes", "limit", "nothing"]

# This limits work, not time, so that repeated runs print the same numbers.
_MOST_SOLVED_AS_GIVEN = 64


def search(
    model: ModelSpec,
    cluster: ClusterSpec,
    training: TrainingSpec,
    *,
    fixed: Fixed | None = None,
    may_choose: OpenChoices | None = None,
    times: OpTimes | None = None,
    time_limit_seconds: float = 30.0,
    runners_up: int = 3,
    tolerance: float = 0.0,
    list_trade_offs: bool = False,
    explain_none: ExplainNone = "changes",
    progress: Progress | None = None,
) -> SearchResult:
    """Return the plan with the shortest predicted step among those that fit, on all devices of the cluster.

    The search minimises a closed form that equals the simulated timeline (a law of the cost model). Simulating the best
    few plans would therefore not change their order. With a `tolerance` the plan is the simplest of those that take at most
    that share longer than the fastest, or `OF_OTHER_AXES` times that share with fewer axes (branching/simplest.py). `may_choose` opens parts of `training` to the planner
    (space/variants.py). `list_trade_offs` looks for plans that are faster, simpler or leave more memory free
    (branching/trade_offs.py). `explain_none`: where no plan fits, the error names the limit that binds ("limit"), and also
    "changes" that would fit; "nothing" spares the time. `progress` is called with (solved, still open, best seconds).

    Raises:
        SpecError: nothing divides, or the fixed choices contradict each other or the software; the device or the software
            does not have what the planner may choose.
        InfeasibleError: plans divide, but none fits the memory. The message says what `explain_none` asks for.
    """
    started, fixed = time.perf_counter(), kept_by(fixed or Fixed(), training)
    check_trainable(model, training)
    check_optimizer(model, training)
    model = model.trained_as(training.trainable)
    if fixed.stages is None:
        check_runs(training, fixed)
    may_choose = may_choose or OpenChoices()
    trainings = training_variants(model, cluster, training, may_choose)
    times_of = partial(_times_of, cluster=cluster, given=training, times=times)
    job = model, cluster, trainings, fixed, may_choose
    found = _searched(*job, times_of, started + time_limit_seconds, progress)
    if found.best is None:  # the last variant keeps least
        raise _no_plan(explain_none, model, cluster, trainings[-1], fixed, times_of(trainings[-1]))
    other = tolerance * OF_OTHER_AXES
    chosen = simplest(found, tolerance, of_other_axes=other) if tolerance > 0 and found.complete else found.best
    run, plan = chosen.variant.run, _plan_of(chosen, model)
    kept = _training_of(chosen, model, training)
    fastest = _runner_up(found.best, model, training, beside=kept)
    return SearchResult(
        plan=plan,
        estimate=run.estimate(model, cluster, kept, plan),
        training=kept,
        given=training,
        bound_seconds=found.bound_seconds(),
        candidates_total=sum(len(variant.run.space) for variant in found.every),
        candidates_solved=found.solved,
        complete=found.complete,
        fixed=fixed,
        runners_up=_other_meshes(found, chosen, model, runners_up),
        fastest=None if (fastest.plan, fastest.training) == (plan, None) else fastest,
        as_given=tuple(_as_given(found, kept, training, model)),
        trade_offs=trade_offs(found, chosen, model, cluster, partial(_training_of, model=model, given=training))
        if list_trade_offs and found.complete
        else (),
        seconds=time.perf_counter() - started,
    )


def _searched(
    model: ModelSpec,
    cluster: ClusterSpec,
    trainings: list[TrainingSpec],
    fixed: Fixed,
    may_choose: OpenChoices,
    times_of: Callable[[TrainingSpec], OpTimes],
    deadline: float,
    progress: Progress | None,
) -> Portfolio:
    """Search all variants, and then a few entries with what nobody stated, or all entries with it where nothing fits without."""
    resorts = last_resorts(fixed) if fixed.stages is None else [fixed]

    def run(variants: list[TrainingSpec]) -> Portfolio:
        starts = (Portfolio.start(model, cluster, variants, tried, times_of) for tried in resorts)
        return _first_with_a_plan(starts, deadline - time.perf_counter(), progress)

    found = run(trainings)
    if fixed.stages is None:
        base = trainings[0] if found.best is None else found.best.variant.training
        others = unstated_variants(model, cluster, base, may_choose, fixed)
        if found.best is not None:
            found.run_unstated(model, others, times_of, deadline - time.perf_counter())
        elif others:
            found = run([*trainings, *others])
    found.run_other_order(model, cluster, deadline - time.perf_counter())
    return found


def _other_meshes(found: Portfolio, chosen: Found, model: ModelSpec, count: int) -> tuple[RunnerUp, ...]:
    run = chosen.variant.run
    others = run.other_meshes(count, chosen.solved) if found.complete else []
    return tuple(RunnerUp(plan_of(other, run.space, model), other.step_seconds) for other in others)


def _first_with_a_plan(starts: Iterator[Portfolio], time_limit_seconds: float, progress: Progress | None) -> Portfolio:
    """Run portfolios in turn until one finds a plan; return the last that was run."""
    for found in starts:
        found.run(time_limit_seconds, progress)
        if found.best is not None:
            break
    return found


def _no_plan(
    explain: ExplainNone, model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed, times: OpTimes
) -> InfeasibleError:
    if explain == "nothing":
        return InfeasibleError("no plan fits the memory")
    return infeasible(model, cluster, training, fixed, times, say_what_fits=explain == "changes")


def _times_of(variant: TrainingSpec, *, cluster: ClusterSpec, given: TrainingSpec, times: OpTimes | None) -> OpTimes:
    """The operation times of a variant: those that were given for the given training, or its own with their constants."""
    if times is not None and variant == given:
        return times
    return op_times(cluster, variant, times.constants if times else CALIBRATED)


def _plan_of(found: Found, model: ModelSpec) -> Plan:
    return plan_of(found.solved, found.variant.run.space, model)


def _training_of(found: Found, model: ModelSpec, given: TrainingSpec) -> TrainingSpec:
    """The training spec of a plan. Modules that no layer recomputes are those that were given."""
    policies = {run.recompute for stage in _plan_of(found, model).stages for run in stage.layers}
    training = found.variant.training
    if "selective" in policies or training.recompute_modules == given.recompute_modules:
        return training
    return training.model_copy(update={"recompute_modules": given.recompute_modules})


def _runner_up(found: Found, model: ModelSpec, given: TrainingSpec, *, beside: TrainingSpec) -> RunnerUp:
    """A plan that was found, beside a result with another training spec or the same one."""
    own = _training_of(found, model, given)
    return RunnerUp(_plan_of(found, model), found.solved.step_seconds, None if own == beside else own)


def _as_given(found: Portfolio, chosen: TrainingSpec, given: TrainingSpec, model: ModelSpec) -> Iterator[AsGiven]:
    """Yield for each difference of the chosen training spec the fastest plan that has the given value there."""
    for name in changed(chosen, given):
        variants = [each for each in found.every if keeps(each.training, given, name)]
        best = found.fastest_among(variants, _MOST_SOLVED_AS_GIVEN)
        yield AsGiven(name, None if best is None else _runner_up(best, model, given, beside=chosen))
