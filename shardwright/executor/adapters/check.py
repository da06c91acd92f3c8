"""Adapters of a plan against its model: they are those that the plan is charged for."""

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile, adapter_parameters
from shardwright.executor.model import Skeleton

from .layer import LinearSizes, adapted_linears, sizes_of


def check_adapters(plan_file: PlanFile, skeleton: Skeleton) -> None:
    """Check that the linears found in the model are those that the estimate has adapters for, by their parameters.

    Raises:
        SpecError: the model's code has other linears than its configuration says.
    """
    trainable = plan_file.training.trainable
    if not trainable.has_adapters:
        return
    own = sum(
        trainable.rank * (sizes.inputs + sum(sizes.outputs)) for sizes in model_adapters(plan_file, skeleton).values()
    )
    charged = adapter_parameters(plan_file.model(), plan_file.training)
    if own != charged:
        kind = type(skeleton.model).__name__
        raise SpecError(
            f"{skeleton.name}: adapters of {trainable} have {own:,} parameters in {kind} and {charged:,.0f} in the plan's estimate; "
            "plan with --trainable all, or with other targets"
        )


def model_adapters(plan_file: PlanFile, skeleton: Skeleton) -> dict[str, LinearSizes]:
    """Return the sizes of all adapted linears of the model, by path."""
    trainable, layers = plan_file.training.trainable, skeleton.structure.layers
    return {
        f"{layers}.{index}.{path}": sizes_of(module)
        for index in range(plan_file.plan.layer_count)
        for path, module in adapted_linears(skeleton.layer(index), trainable).items()
    }
