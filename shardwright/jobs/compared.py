"""`compare`, `estimate`, `simulate` and `report`: what the commands of these names do, for a program or a notebook."""

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from shardwright.comparison import BEST, Searched, SearchPlan, strategies_for
from shardwright.comparison import compare as compare_ways
from shardwright.costmodel import PlanFile, check_plan, estimate_plan, read_plan_file, simulate_plan
from shardwright.planner import TOLERANCE, Fixed, OpenChoices, search
from shardwright.planner.nearby import search_job
from shardwright.planner.space import asked
from shardwright.planner.why import explain, neighbours
from shardwright.reports.plan import Comparison
from shardwright.specs import ClusterSpec, Estimate, Plan, Timeline, TrainingSpec
from shardwright.specs.model import ModelSpec

from .drawn import rivals_of, write_plan_report
from .options import TRAINING_DEFAULTS, options_of
from .planned import Planned, read_job
from .reading import read_may_choose, read_training

_WITHOUT = f"{BEST}-without-"
AnyPlan = Planned | PlanFile | Path | str
"""What `plan` returned, a plan file that was read, or the path of one."""


def compare(
    model: str | ModelSpec,
    cluster: str | ClusterSpec,
    *,
    seq_len: int,
    global_batch: int,
    strategies: Sequence[str] | None = None,
    plans: Mapping[str, Plan | Searched] | None = None,
    **options: Any,
) -> Comparison:
    """Estimate named strategies and given plans for one job, as the command `compare` does. By default all that mean something for the model.

    "best" is the planner's choice, "best-without-cp" its choice without context parallelism; so for all that `--forbid` takes.

    `options`: those of the training by name, what the planner's choice may choose of it (`allow_precision`, `allow_approximate`,
    `loss_chunks="auto"`, `recompute_modules="auto"`), and reserves and profile as in `plan`. Strategies are estimated for the training as
    given.

    Raises:
        SpecError: a name, a number or an option is not valid.
    """
    job, devices = read_job(model, cluster, options)
    given = options_of(options, TRAINING_DEFAULTS, seq_len=seq_len, global_batch=global_batch)
    closed, _ = read_may_choose(given)
    training = read_training(closed, job, devices, warnings.warn)
    names, searches = searches_of([*strategies_for(job), BEST] if strategies is None else strategies, given)
    return compare_ways(job, devices, training, strategies=names, plans=plans, searches=searches)


def searches_of(
    names: Sequence[str], options: Mapping[str, Any] | None = None
) -> tuple[list[str], dict[str, SearchPlan]]:
    """Return the names of strategies, and the searches of the other names: `best`, and `best-without-` what `--forbid` takes.

    `options`: what these searches may choose, as in `compare`; none of it by default.

    Raises:
        SpecError: nothing of that name can be forbidden, or a value is not allowed.
    """
    searches: dict[str, SearchPlan] = {}
    may_choose = read_may_choose(options)[1] if options else None
    approximate = {"allow_approximate": options["allow_approximate"]} if options else {}
    for name in names:
        if name == BEST:
            searches[name] = partial(best, fixed=asked(approximate), may_choose=may_choose)
        elif name.startswith(_WITHOUT):
            fixed = asked(approximate, forbid=[name.removeprefix(_WITHOUT)])
            searches[name] = partial(best, fixed=fixed, may_choose=may_choose)
    return [name for name in names if name not in searches], searches


def best(
    model: ModelSpec,
    cluster: ClusterSpec,
    training: TrainingSpec,
    *,
    fixed: Fixed | None = None,
    may_choose: OpenChoices | None = None,
) -> Searched:
    """Return the planner's choice, its devices, which on a mixed cluster may be a part of it, and its training spec."""
    options: dict[str, Any] = {"may_choose": may_choose, "tolerance": TOLERANCE, "runners_up": 0}
    if cluster.is_mixed or (fixed and fixed.approximate):
        found = search_job(model, cluster, training, fixed=fixed, **options)
        return Searched(found.result.plan, found.cluster, found.result.training)
    result = search(model, cluster, training, fixed=fixed, **options)
    return Searched(result.plan, cluster, result.training)


def estimate(plan: AnyPlan) -> Estimate:
    """Estimate a plan by the cost model of this version; what its file says may be of another one.

    Raises:
        SpecError: the file is no plan file, or the plan does not divide the model, the batch or the cluster.
    """
    written = _plan_file(plan)
    return estimate_plan(written.model(), written.cluster, written.training, written.plan)


def simulate(plan: AnyPlan) -> Timeline:
    """Simulate one step of a plan, event by event.

    Raises:
        SpecError: see `estimate`.
    """
    written = _plan_file(plan)
    return simulate_plan(written.model(), written.cluster, written.training, written.plan)


def report(plan: AnyPlan, path: Path | str) -> Path:
    """Write the HTML report of a plan to `path`, over a file that is there; return the path.

    Raises:
        SpecError: see `estimate`.
    """
    if isinstance(plan, Planned):
        return plan.report(path)
    written = _plan_file(plan)
    job = written.model(), written.cluster, written.training
    found = written.model_copy(update={"estimate": estimate_plan(*job, written.plan)})
    near = neighbours(written.plan, *job)
    why = explain(written.plan, *job, others=near)
    write_plan_report(Path(path), found, why=why, rivals=rivals_of(near, found.estimated()))
    return Path(path)


def _plan_file(plan: AnyPlan) -> PlanFile:
    """
    Raises:
        SpecError: see `estimate`.
    """
    if isinstance(plan, Planned):
        return plan.plan_file
    written = plan if isinstance(plan, PlanFile) else read_plan_file(Path(plan))
    check_plan(written.plan, written.model(), written.cluster, written.training)
    return written
