"""`simulate` runs a plan's schedule through the event simulation."""

from pathlib import Path
from typing import Annotated

import typer

from .options import (
    ForceOption,
    JsonOption,
    PlanArgument,
    ProfileOption,
    console,
    end_infeasible,
    note_what_profile_lacks,
    print_json,
    read_plan,
    refuse_existing,
    tell_what_lacks,
)
from .plans import write_json


def simulate(
    plan_path: PlanArgument,
    profile: ProfileOption = None,
    trace: Annotated[Path | None, typer.Option(help="Write a trace for ui.perfetto.dev here.")] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Simulate one step: when each stage computes, waits and communicates, and how much memory it holds."""
    from shardwright.costmodel import estimate_plan, simulate_plan
    from shardwright.jobs import simulated_trace

    refuse_existing(trace, force=force, inputs=[plan_path, *([profile] if profile else [])])
    plan_file, model = read_plan(plan_path, profile)
    note_what_profile_lacks(model, plan_file.cluster, plan_file.training)
    job = (model, plan_file.cluster, plan_file.training, plan_file.plan)
    lacking = tell_what_lacks(estimate_plan(*job), plan_file.cluster)
    timeline = simulate_plan(*job)
    if trace:
        write_json(trace, simulated_trace(plan_file, timeline))
    idle = timeline.idle_fractions().tolist()
    peaks = [curve.peak_bytes for curve in timeline.memory]
    if as_json:
        found = {"step_seconds": timeline.step_seconds, "idle_fractions": idle, "peak_memory_bytes": peaks}
        print_json({**found, "infeasible": lacking})
    else:
        from shardwright.reports.plan import timeline_table

        console().print(timeline_table(timeline))
        if trace:
            typer.echo(f"wrote {trace}; open it at ui.perfetto.dev")
    end_infeasible(lacking)
