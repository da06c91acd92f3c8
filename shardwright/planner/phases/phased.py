"""Plans of all phases of a run together: each phase's own best plan, and what the other phases' plans would take in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from shardwright.base import InfeasibleError, SpecError
from shardwright.costmodel.phases import Job, Switch, Switching, same_placement, switch_between
from shardwright.planner.branching import SearchResult
from shardwright.planner.nearby import search_job
from shardwright.planner.space import Fixed
from shardwright.specs import ClusterSpec, Estimate, Plan, TrainingSpec
from shardwright.specs.model import ModelSpec

from .shortest import shortest

_FREED = ("micro_batch", "even_stages")
_WITH_STAGES = ("stages", "recompute", "offload_activations")
"""What a plan may choose anew that follows another one."""
_RUNNERS_UP = 3
"""Best plans of other meshes of each job, which may suit several jobs better than any job's own best."""


class _Candidate(NamedTuple):
    model: ModelSpec
    training: TrainingSpec
    plan: Plan
    estimate: Estimate

    @property
    def job(self) -> Job:
        return Job(self.model, self.training, self.plan)


class _Job(NamedTuple):
    """What a phase asks to plan; `number` says which phase asks first."""

    number: int
    model: ModelSpec
    training: TrainingSpec


class PlannedPhase(NamedTuple):
    """`steps` of a job under its plan, after a switch from the plan before."""

    steps: int
    model: ModelSpec
    training: TrainingSpec
    plan: Plan
    estimate: Estimate
    switch: Switch

    @property
    def seconds(self) -> float:
        """Of its steps, without the switch."""
        return self.steps * self.estimate.step_seconds


@dataclass(frozen=True)
class PhasesResult:
    """The plans of all phases.

    Attributes:
        phases: in order, each with the switch before it.
        one_placement_seconds: of the best plans found that all have one placement of weights; None where no such placement fits every phase.
        own_best_seconds: where each phase has its own best plan, with the switches between them.
    """

    phases: tuple[PlannedPhase, ...]
    one_placement_seconds: float | None
    own_best_seconds: float

    @cached_property
    def seconds(self) -> float:
        """Of all steps and switches."""
        return sum(phase.seconds + phase.switch.seconds for phase in self.phases)


def plan_phases(
    cluster: ClusterSpec,
    jobs: Sequence[tuple[int, ModelSpec, TrainingSpec]],
    switching: Switching,
    *,
    fixed: Fixed | None = None,
    **options: Any,
) -> PhasesResult:
    """Return the plans of the phases with the least seconds over all steps and switches. `jobs`: steps, model and training of each. `options`:
    those of `search_job`.

    The candidates of a phase are the plan that `search_job` gives for it alone, and the best plans that keep mesh, schedule and ZeRO stage of the
    best plan of any phase, or of one of the runners-up, with its stages and with stages of their own. The way through them is optimal, where
    a phase's own plan counts as its fastest.

    Raises:
        SpecError: a phase does not divide, or where checkpoints lie is not known.
        InfeasibleError: a phase fits under no plan. Both name the phase.
    """
    distinct: list[_Job] = []
    asked = []
    for number, (_, model, training) in enumerate(jobs, start=1):
        same = (index for index, job in enumerate(distinct) if job[1:] == (model, training))
        found = next(same, len(distinct))
        distinct += [_Job(number, model, training)] if found == len(distinct) else []
        asked.append(found)
    results = [_searched(job, cluster, fixed, options) for job in distinct]
    of_job = [
        _candidates(job, own, cluster, results, fixed or Fixed(), options)
        for job, own in zip(distinct, results, strict=True)
    ]
    candidates = [of_job[index] for index in asked]
    seconds = [
        np.array([steps * each.estimate.step_seconds for each in found])
        for (steps, *_), found in zip(jobs, candidates, strict=True)
    ]
    switches = [
        [[switch_between(cluster, first.job, second.job, switching) for second in after] for first in before]
        for before, after in pairwise(candidates)
    ]
    changes = [np.array([[switch.seconds for switch in row] for row in table]) for table in switches]
    # a plan counts as no faster than the job's own, which is the simplest of those that are as fast
    way = shortest([np.maximum(part, part[0]) for part in seconds], changes).chosen
    taken = [Switch("none", 0.0), *(table[i][j] for table, (i, j) in zip(switches, pairwise(way), strict=True))]
    phases = (
        PlannedPhase(steps, *found[index], switch)
        for (steps, *_), found, index, switch in zip(jobs, candidates, way, taken, strict=True)
    )
    alone = sum(part[0] for part in seconds) + sum(change[0, 0] for change in changes)
    return PhasesResult(tuple(phases), _one_placement(candidates, seconds, changes), float(alone))


def _one_placement(
    candidates: Sequence[Sequence[_Candidate]], seconds: Sequence[np.ndarray], changes: Sequence[np.ndarray]
) -> float | None:
    """The least seconds of a way whose plans all have one placement."""
    found = []
    for first in candidates[0]:
        kept = [[_together(first.plan, each.plan) for each in of_phase] for of_phase in candidates]
        held = [np.where(mask, part, np.inf) for mask, part in zip(kept, seconds, strict=True)]
        found.append(shortest(held, changes).seconds)
    return min(found) if np.isfinite(min(found)) else None


def _together(first: Plan, second: Plan) -> bool:
    return first == second or same_placement(first, second)


def _searched(job: _Job, cluster: ClusterSpec, fixed: Fixed | None, options: dict[str, Any]) -> SearchResult:
    try:
        return search_job(job.model, cluster, job.training, fixed=fixed, runners_up=_RUNNERS_UP, **options).result
    except (SpecError, InfeasibleError) as error:
        raise type(error)(f"phase {job.number}: {error}") from None


def _candidates(
    job: _Job,
    own: SearchResult,
    cluster: ClusterSpec,
    results: Sequence[SearchResult],
    fixed: Fixed,
    options: dict[str, Any],
) -> list[_Candidate]:
    """The plan of this job first, then those that follow plans of all jobs; no plan twice."""
    found = [_Candidate(job.model, own.training, own.plan, own.estimate)]
    for kept in _followed(results, fixed):
        if kept.stages is not None and sum(stage.layer_count for stage in kept.stages) != job.model.layer_count:
            continue  # of a model that has grown since, or has not yet
        try:
            result = search_job(job.model, cluster, job.training, fixed=kept, runners_up=0, **options).result
        except (SpecError, InfeasibleError):
            continue
        new = _Candidate(job.model, result.training, result.plan, result.estimate)
        found += [] if new in found else [new]
    return found


def _followed(results: Sequence[SearchResult], fixed: Fixed) -> list[Fixed]:
    """What a plan keeps that follows one of those found."""
    found: list[Fixed] = []
    for result in results:
        for plan in (result.plan, *(runner_up.plan for runner_up in result.runners_up)):
            found += [kept for kept in forms_that_follow(plan, fixed) if kept not in found]
    return found


def forms_that_follow(plan: Plan, fixed: Fixed) -> list[Fixed]:
    """What another plan keeps that follows this one: with its stages, and with stages of its own, which `fixed` limits alone."""
    alike = [_FREED] if plan.mesh.pp > 1 else []  # else its stages say what it recomputes alone
    return [
        Fixed.of(plan).but(**{name: getattr(fixed, name) for name in freed})
        for freed in (*alike, (*_FREED, *_WITH_STAGES))
    ]
