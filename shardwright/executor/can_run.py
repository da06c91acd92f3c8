"""What a plan may say that can be estimated and compared, and that the engine does not run yet."""

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile
from shardwright.specs import OWN_STACK


def check_can_run(plan_file: PlanFile) -> None:
    """Refuse what the engine would else leave out in silence.

    Raises:
        SpecError: naming the first such choice and what to plan with instead.
    """
    stack = plan_file.training.stack
    if stack != OWN_STACK:
        raise SpecError(
            f"the plan is for stack '{stack}'; this executor is '{OWN_STACK}': plan again without --stack, or run it with the "
            "software it is for"
        )
    mesh, precision = plan_file.plan.mesh, plan_file.training.precision
    for axis, degree in (("cp", mesh.cp), ("ep", mesh.ep)):
        if degree > 1:
            raise SpecError(f"{axis} {degree} can be estimated and compared, not run yet; plan with {axis} 1")
    if precision.linear is not None:
        raise SpecError(
            f"linear precision {precision.linear} can be estimated and compared, not run yet; plan without it, in {precision.compute}"
        )
    if precision.parameters != "fp32":
        raise SpecError(
            f"{precision.parameters} parameters can be estimated and compared, not run yet; plan with parameters in fp32"
        )
    stages = plan_file.plan.stages
    if any(not stage.layers for stage in stages):
        raise SpecError(
            f"{len(stages)} stages of which one holds no layer can be estimated and compared, not run yet; give each a layer"
        )
    if plan_file.training.expert_capacity is not None:
        raise SpecError("expert_capacity can be estimated and compared, not run yet; leave it out")
