"""What `explain` says of one plan, or of each phase of a run."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from shardwright.cli.options import console, end_infeasible, read_reliability, tell_what_lacks

from .printing import parameter_counts, print_plan, profile_lacks

if TYPE_CHECKING:
    from shardwright.costmodel import Goodput, PlanFile
    from shardwright.costmodel.op_times import OpTimes
    from shardwright.planner.why import Alternative
    from shardwright.specs.model import ModelSpec


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
