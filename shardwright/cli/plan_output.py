"""What `plan` and `explain` both print and write of a plan."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import console

if TYPE_CHECKING:
    from shardwright.costmodel import PlanFile
    from shardwright.costmodel.op_times import OpTimes
    from shardwright.planner.why import Alternative
    from shardwright.reports.pages import Rival
    from shardwright.reports.plan import OtherPlan
    from shardwright.specs import ClusterSpec, Estimate, Measurement, Timeline, TrainingSpec
    from shardwright.specs.model import ModelSpec


def parameter_counts(model: "ModelSpec") -> dict[str, int]:
    """How many parameters were read: all, and those that one token passes through."""
    return {"total": model.parameter_count, "active": model.active_parameter_count}


def profile_lacks(model: "ModelSpec", cluster: "ClusterSpec", training: "TrainingSpec") -> list[str]:
    """A sentence about what the cluster's profile lacks for this job; none where it lacks nothing."""
    from shardwright.catalog import what_profile_lacks

    sentence = what_profile_lacks(cluster, training, model)
    return [sentence] if sentence else []


def write_plan_report(
    path: Path,
    plan_file: "PlanFile",
    why: list[str],
    measurement: "Measurement | None" = None,
    times: "OpTimes | None" = None,
    rivals: "Sequence[Rival]" = (),
) -> None:
    """Write the report of a plan: simulates its step, and searches its mesh again in other surroundings."""
    from shardwright.costmodel import charged_step, pass_parts, simulate_plan
    from shardwright.planner.nearby import sensitivities
    from shardwright.planner.why import assumed
    from shardwright.reports.pages import Report, Surrounding, write_report

    model = plan_file.model()
    run = (model, plan_file.cluster, plan_file.training, plan_file.plan)
    alone = not (plan_file.cluster.is_mixed or plan_file.plan.replicas)
    write_report(
        path,
        Report(
            model=model,
            cluster=plan_file.cluster,
            training=plan_file.training,
            plan=plan_file.plan,
            estimate=plan_file.estimated(),
            why=why,
            timeline=simulate_plan(*run, times),
            parts=pass_parts(*run, times),
            charges=charged_step(*run) if alone else (),
            rivals=rivals,
            surroundings=[Surrounding(one.what, one.estimate, one.reason, one.work) for one in sensitivities(*run)],
            assumed=assumed(plan_file.cluster),
            measurement=measurement,
        ),
    )


def simulated_trace(plan_file: "PlanFile", timeline: "Timeline") -> dict[str, Any]:
    """The simulated step for Perfetto, with the plan as metadata."""
    from shardwright import __version__
    from shardwright.costmodel import pass_parts
    from shardwright.reports.traces import trace_of

    parts = pass_parts(plan_file.model(), plan_file.cluster, plan_file.training, plan_file.plan)
    about = {
        "model": plan_file.model_name,
        "cluster": plan_file.cluster.name,
        "plan": str(plan_file.plan.mesh),
        "schedule": plan_file.plan.schedule,
        "shardwright": __version__,
    }
    return trace_of(timeline, parts, about)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write plain data without spaces.

    Raises:
        SpecError: the file cannot be written.
    """
    import json

    from shardwright.base import write_whole

    write_whole(path, json.dumps(content, separators=(",", ":"), allow_nan=False))


def rivals_of(neighbours: "Sequence[Alternative]", mine: "Estimate") -> "list[Rival]":
    """The neighbours of a plan as the rows of its report."""
    from shardwright.planner.why import why_not
    from shardwright.reports.pages import Rival

    return [Rival(f"with {one.change}", one.plan, one.estimate, why_not(one, mine)) for one in neighbours]


def print_plan(plan_file: "PlanFile", model: "ModelSpec", why: list[str], others: "tuple[OtherPlan, ...]" = ()) -> None:
    from rich.text import Text

    from shardwright.reports.plan import memory_table, others_table, plan_table, step_table

    estimate, printed = plan_file.estimated(), console()
    printed.print(Text.assemble((plan_file.model_name, "bold"), f" on {plan_file.cluster.name}"))
    printed.print(plan_table(plan_file.plan, estimate, plan_file.training, model=model, cluster=plan_file.cluster))
    printed.print(step_table(estimate))
    printed.print(memory_table(estimate, plan_file.cluster))
    if others:
        printed.print(others_table(others, estimate))
    printed.print("[bold]Why[/bold]")
    for line in why:
        printed.print(f"- {line}", highlight=False, markup=False)
