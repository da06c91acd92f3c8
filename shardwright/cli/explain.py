"""`explain` says what bounds a plan and what its neighbours cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

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
from .phases import explain_phases
from .plan_output import parameter_counts, print_plan, profile_lacks

if TYPE_CHECKING:
    from shardwright.costmodel import Goodput, PlanFile
    from shardwright.costmodel.op_times import OpTimes
    from shardwright.planner.why import Alternative
    from shardwright.specs.model import ModelSpec


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


class Explained(NamedTuple):
    """A plan with its estimate by this version, what it lacks of memory, and the reasons."""

    plan_file: "PlanFile"
    model: "ModelSpec"
    times: "OpTimes"
    lacking: str | None
    goodput: "Goodput | None"
    others: "Sequence[Alternative]"
    why: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return all but the measurement."""
        failures = {"goodput": self.goodput.model_dump(mode="json")} if self.goodput else {}
        printed = {"plan_file": self.plan_file.model_dump(mode="json"), "parameters": parameter_counts(self.model)}
        return {**printed, "infeasible": self.lacking, "why": self.why, **failures}

    def print(self, name: str) -> None:
        """Print tables and reasons."""
        from shardwright.reports.plan import goodput_table

        print_plan(self.plan_file, self.model, self.why)
        if self.goodput:
            console().print(goodput_table({name: self.goodput}))

    def end(self) -> None:
        """End with the exit code of a plan that does not fit, where this one does not."""
        end_infeasible(self.lacking)


def explained(written: "PlanFile", given: Mapping[str, Any], *, name: str = "") -> Explained:
    """Explain one plan, and say on stderr where it does not fit. `given`: the options of `explain`. `name`: of the plan, for that line.

    Raises:
        SpecError: an option is not valid for the plan.
    """
    from shardwright.costmodel import estimate_plan, goodput
    from shardwright.planner.why import explain as explain_plan
    from shardwright.planner.why import neighbours

    names = ("mtbf_device_hours", "mtbf_node_hours", "checkpoint_seconds", "restart_seconds", "checkpoint_every")
    reliability, model = read_reliability(**{name: given[name] for name in names}), written.model()
    if given["pipeline_layout"]:
        written = _dealt(written, model, given["pipeline_layout"])
    job = (model, written.cluster, written.training, written.plan)
    times = _times(written, given["step_noise"])
    # what the file says was true when it was written: a plan changed by hand has other costs
    plan_file = written.model_copy(update={"estimate": estimate_plan(*job, times)})
    lacking = tell_what_lacks(plan_file.estimated(), written.cluster, name)
    left = goodput(plan_file.estimated(), written.cluster, reliability) if reliability else None
    others = neighbours(plan_file.plan, *job[:3], times=times)
    why = explain_plan(plan_file.plan, *job[:3], times=times, others=others)
    why += profile_lacks(model, plan_file.cluster, plan_file.training)
    return Explained(plan_file, model, times, lacking, left, others, why)


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
