"""`explain` says what bounds a plan and what its neighbours cost."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    end_infeasible,
    print_json,
    read_plan,
    read_reliability,
    refuse_existing,
    tell_what_lacks,
)
from .plan_output import parameter_counts, print_plan, profile_lacks

if TYPE_CHECKING:
    from shardwright.costmodel import PlanFile
    from shardwright.costmodel.op_times import OpTimes
    from shardwright.specs.model import ModelSpec


def explain(
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
    from shardwright.costmodel import estimate_plan, goodput
    from shardwright.jobs import rivals_of, write_plan_report
    from shardwright.planner.why import explain as explain_plan
    from shardwright.planner.why import neighbours
    from shardwright.reports.plan import goodput_table, measured_table
    from shardwright.specs import read_measurement

    refuse_existing(report, force=force, inputs=[path for path in (plan_path, profile, measurement) if path])
    reliability = read_reliability(
        mtbf_device_hours=mtbf_device_hours,
        mtbf_node_hours=mtbf_node_hours,
        checkpoint_seconds=checkpoint_seconds,
        restart_seconds=restart_seconds,
        checkpoint_every=checkpoint_every,
    )
    written, model = read_plan(plan_path, profile)
    if pipeline_layout:
        written = _dealt(written, model, pipeline_layout)
    job = (model, written.cluster, written.training, written.plan)
    times = _times(written, step_noise)
    # what the file says was true when it was written: a plan changed by hand has other costs
    plan_file = written.model_copy(update={"estimate": estimate_plan(*job, times)})
    lacking = tell_what_lacks(plan_file.estimated(), written.cluster)
    left = goodput(plan_file.estimated(), written.cluster, reliability) if reliability else None
    measured = read_measurement(measurement) if measurement else None
    beside = measured_table(plan_file.plan, plan_file.estimated(), measured) if measured else None
    others = neighbours(plan_file.plan, *job[:3], times=times)
    why = explain_plan(plan_file.plan, *job[:3], times=times, others=others)
    why += profile_lacks(model, plan_file.cluster, plan_file.training)
    if report:
        rivals = rivals_of(others, plan_file.estimated())
        write_plan_report(report, plan_file, why=why, rivals=rivals, times=times, measurement=measured)
    if as_json:
        run = {"measurement": measured.model_dump(mode="json")} if measured else {}
        failures = {"goodput": left.model_dump(mode="json")} if left else {}
        printed = {"plan_file": plan_file.model_dump(mode="json"), "parameters": parameter_counts(model)}
        print_json({**printed, "infeasible": lacking, "why": why, **run, **failures})
    else:
        print_plan(plan_file, model, why)
        if left:
            console().print(goodput_table({plan_path.name: left}))
        if beside:
            console().print(beside)
    end_infeasible(lacking)


def _dealt(plan_file: "PlanFile", model: "ModelSpec", layout: str) -> "PlanFile":
    """The plan with its layers dealt to stages by `layout`, and nothing else changed.

    Raises:
        SpecError: the layout is not one of this model and mesh, or the schedule does not accept it.
    """
    from shardwright.costmodel import read_layout, with_layout

    plan, mtp_layers = plan_file.plan, plan_file.training.mtp_layers
    stages = read_layout(layout, layers=model.layer_count, mtp_layers=mtp_layers, pp=plan.mesh.pp)
    return plan_file.model_copy(update={"plan": with_layout(plan, stages)})


def _times(plan_file: "PlanFile", step_noise: float | None) -> "OpTimes":
    """The times of the plan's cluster, with the noise that is given, if any.

    Raises:
        SpecError: the noise is not in [0, 1).
    """
    from dataclasses import replace

    from shardwright.base import SpecError
    from shardwright.costmodel.op_times import CALIBRATED, op_times

    # on a mixed cluster each group has times of its own, and takes the constants of these
    cluster = plan_file.cluster.alone(0) if plan_file.cluster.is_mixed else plan_file.cluster
    if step_noise is None:
        return op_times(cluster, plan_file.training)
    if not 0 <= step_noise < 1:
        raise SpecError(f"--step-noise is {step_noise}: give a share from 0 up to 1, such as 0.01")
    return op_times(cluster, plan_file.training, replace(CALIBRATED, step_noise=step_noise))
