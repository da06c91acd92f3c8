"""What commands print and write of a plan."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardwright.cli.options import console

if TYPE_CHECKING:
    from shardwright.costmodel import PlanFile
    from shardwright.reports.plan import OtherPlan
    from shardwright.specs import ClusterSpec, TrainingSpec
    from shardwright.specs.model import ModelSpec


def parameter_counts(model: "ModelSpec") -> dict[str, int]:
    """How many parameters were read: all, and those that one token passes through."""
    return {"total": model.parameter_count, "active": model.active_parameter_count}


def profile_lacks(model: "ModelSpec", cluster: "ClusterSpec", training: "TrainingSpec") -> list[str]:
    """A sentence about what the cluster's profile lacks for this job; none where it lacks nothing."""
    from shardwright.catalog import what_profile_lacks

    sentence = what_profile_lacks(cluster, training, model)
    return [sentence] if sentence else []


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write plain data without spaces.

    Raises:
        SpecError: the file cannot be written.
    """
    import json

    from shardwright.base import write_whole

    write_whole(path, json.dumps(content, separators=(",", ":"), allow_nan=False))


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
