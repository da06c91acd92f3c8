"""The report and the trace of a plan: everything that they show, gathered for the page that draws it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shardwright.base import units
from shardwright.costmodel import PlanFile, charged_step, estimate_plan, pass_parts, simulate_plan
from shardwright.costmodel.op_times import OpTimes
from shardwright.planner import SearchResult
from shardwright.planner.nearby import sensitivities
from shardwright.planner.why import Alternative, assumed, difference, why_not
from shardwright.reports.pages import Report, Rival, Surrounding, write_report
from shardwright.reports.plan import OtherPlan
from shardwright.reports.traces import trace_of
from shardwright.specs import ClusterSpec, Estimate, Measurement, Timeline


def write_plan_report(
    path: Path,
    written: PlanFile,
    *,
    why: Sequence[str] = (),
    rivals: Sequence[Rival] = (),
    times: OpTimes | None = None,
    measurement: Measurement | None = None,
) -> None:
    """Write the report of a plan file that has its estimate: simulates its step, and searches its mesh again in other surroundings.

    Raises:
        SpecError: the plan does not divide the model, the batch or the cluster; the measurement is of other ranks; the folder of
            `path` is missing or not writable.
    """
    job = written.model(), written.cluster, written.training, written.plan
    alone = not (written.cluster.is_mixed or written.plan.replicas)  # charges are of nodes of one kind
    write_report(
        path,
        Report(
            model=job[0],
            cluster=written.cluster,
            training=written.training,
            plan=written.plan,
            estimate=written.estimated(),
            why=why,
            timeline=simulate_plan(*job, times),
            parts=pass_parts(*job, times),
            charges=charged_step(*job) if alone else (),
            rivals=rivals,
            surroundings=[Surrounding(one.what, one.estimate, one.reason, one.work) for one in sensitivities(*job)],
            assumed=assumed(written.cluster, job[0]),
            measurement=measurement,
        ),
    )


def rivals_of(neighbours: Sequence[Alternative], mine: Estimate) -> list[Rival]:
    """The neighbours of a plan as the rows of its report."""
    return [Rival(f"with {one.change}", one.plan, one.estimate, why_not(one, mine)) for one in neighbours]


def rivals_of_search(
    written: PlanFile,
    cluster: ClusterSpec,
    result: SearchResult,
    near: Sequence[Alternative],
    others: Sequence[OtherPlan],
) -> list[Rival]:
    """The rows of a report: plans that are better in some way, the neighbours, and the best plans of other meshes."""
    mine = result.estimate
    better = [
        Rival(
            one.title,
            one.plan,
            one.estimate,
            f"{difference(one.estimate, mine)}; {units.size(max(0.0, one.free_bytes))} free",
        )
        for one in others
    ]
    meshes = []
    for runner in () if cluster.is_mixed else result.runners_up:
        estimate = estimate_plan(written.model(), cluster, runner.training or written.training, runner.plan)
        meshes.append(Rival("another mesh", runner.plan, estimate, difference(estimate, mine)))
    return [*better, *rivals_of(near, mine), *meshes]


def simulated_trace(written: PlanFile, timeline: Timeline) -> dict[str, Any]:
    """The simulated step of a plan file for Perfetto, with the plan as metadata."""
    from shardwright import __version__

    parts = pass_parts(written.model(), written.cluster, written.training, written.plan)
    about = {
        "model": written.model_name,
        "cluster": written.cluster.name,
        "plan": str(written.plan.mesh),
        "schedule": written.plan.schedule,
        "shardwright": __version__,
    }
    return trace_of(timeline, parts, about)
