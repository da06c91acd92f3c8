"""`explain` says what bounds a plan and what its neighbours cost."""

from pathlib import Path
from typing import Annotated

import typer

from .options import (
    CheckpointEveryOption,
    CheckpointSecondsOption,
    ForceOption,
    JsonOption,
    MtbfDeviceOption,
    MtbfNodeOption,
    PlanArgument,
    ProfileOption,
    RestartSecondsOption,
    console,
    print_json,
    read_plan,
    refuse_existing,
)
from .phases import explain_phases
from .plans import explained


def explain(
    context: typer.Context,
    plan_path: PlanArgument,
    profile: ProfileOption = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report with the timeline here.")] = None,
    measurement: Annotated[Path | None, typer.Option(help="Compare with a run's measurement.json.")] = None,
    pipeline_layout: Annotated[
        str | None,
        typer.Option(help="Deal the layers to stages as this layout of Megatron-Core does, such as 'Et*3|(tt|)*2tL'."),
    ] = None,
    step_noise: Annotated[
        float | None, typer.Option(help="Set the standard deviation of a rank's compute time, as a share of it.")
    ] = None,
    mtbf_device_hours: MtbfDeviceOption = None,
    mtbf_node_hours: MtbfNodeOption = None,
    checkpoint_seconds: CheckpointSecondsOption = None,
    restart_seconds: RestartSecondsOption = None,
    checkpoint_every: CheckpointEveryOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Explain a plan: what bounds it, what its neighbours would cost, and how sure that is."""
    from shardwright.costmodel.phases import is_phases_file
    from shardwright.jobs import rivals_of, write_plan_report
    from shardwright.reports.plan import measured_table
    from shardwright.specs import read_measurement

    refuse_existing(report, force=force, inputs=[path for path in (plan_path, profile, measurement) if path])
    if is_phases_file(plan_path):
        explain_phases(plan_path, context.params)
        return
    written, _ = read_plan(plan_path, profile)
    found = explained(written, context.params)
    measured = read_measurement(measurement) if measurement else None
    beside = measured_table(found.plan_file.plan, found.plan_file.estimated(), measured) if measured else None
    if report:
        rivals = rivals_of(found.others, found.plan_file.estimated())
        write_plan_report(
            report, found.plan_file, why=found.why, rivals=rivals, times=found.times, measurement=measured
        )
    if as_json:
        print_json({**found.to_json(), **({"measurement": measured.model_dump(mode="json")} if measured else {})})
    else:
        found.print(plan_path.name)
        if beside:
            console().print(beside)
    found.end()
