"""Adapters of a plan against its model: they are those that the plan is charged for."""

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile, adapter_parameters
from shardwright.executor.model import Skeleton
from shardwright.specs import Trainable

from .experts import adapted_experts, computes_grouped, expert_sizes, expert_weights
from .layer import LinearSizes, adapted_linears, sizes_of
from .peft_names import expert_path

_ALIGNED_BYTES = 16


def check_adapters(plan_file: PlanFile, skeleton: Skeleton) -> None:
    """Check that the linears found in the model are those that the estimate has adapters for, by their parameters.

    Raises:
        SpecError: the model's code has other linears than its configuration says.
    """
    trainable = plan_file.training.trainable
    if not trainable.has_adapters:
        return
    _check_experts(plan_file, skeleton)
    own = sum(
        trainable.rank * sizes.experts * (sizes.inputs + sum(sizes.outputs))
        for sizes in model_adapters(plan_file, skeleton).values()
    )
    charged = adapter_parameters(plan_file.model(), plan_file.training)
    if own != charged:
        kind = type(skeleton.model).__name__
        raise SpecError(
            f"{skeleton.name}: adapters of {trainable} have {own:,} parameters in {kind} and {charged:,.0f} in the plan's estimate; "
            "plan with --trainable all, or with other targets"
        )


def _check_experts(plan_file: PlanFile, skeleton: Skeleton) -> None:
    """Check that experts with adapters run in grouped matmuls, which take rows of whole 16 bytes (torch, _meta_registrations.py,
    _meta_grouped_mm_common), and that ranks which hold the same experts can shard the adapters.

    Raises:
        SpecError: they do not, or cannot; names the module, or says what rank to give.
    """
    trainable, plan = plan_file.training.trainable, plan_file.plan
    attention = Trainable(kind="lora", rank=trainable.rank, targets=("attention",), base=trainable.base)
    ranks = plan.mesh.expert_shard_ranks if plan.zero_stage and plan.mesh.ep > 1 else 1
    for index in range(plan.layer_count):
        for path, module in adapted_experts(skeleton.layer(index), trainable).items():
            if not computes_grouped(module):
                raise SpecError(
                    f"{skeleton.name}: {type(module).__name__} ('{path}' of a layer) does not run in grouped matmuls, where its adapters "
                    f"would be; plan with --trainable {attention}"
                )
            whole = _ALIGNED_BYTES // plan_file.training.precision.activation_bytes_per_element
            if trainable.rank % whole:
                given = trainable.model_copy(update={"rank": -(-trainable.rank // whole) * whole})
                raise SpecError(
                    f"adapters of experts have rank {trainable.rank}, and grouped matmuls in {plan_file.training.precision.compute} take "
                    f"multiples of {whole}; plan with --trainable {given}"
                )
            widths = [size for _, sizes in expert_sizes(module, trainable) for size in (sizes.inputs, sizes.outputs)]
            if trainable.rank % ranks and any(width // plan.mesh.expert_tp % ranks for width in widths):
                raise SpecError(
                    f"{ranks} ranks that hold the same experts cannot shard their adapters of rank {trainable.rank} evenly; "
                    f"give a rank that {ranks} divides"
                )


def model_adapters(plan_file: PlanFile, skeleton: Skeleton) -> dict[str, LinearSizes]:
    """Return the sizes of all adapted linears of the model, and of those of experts, by PEFT's path."""
    trainable, weights = plan_file.training.trainable, expert_weights(plan_file.training.trainable)
    found = {}
    for index in range(plan_file.plan.layer_count):
        layer, top = skeleton.layer(index), f"{skeleton.structure.layers}.{index}"
        for path, module in adapted_linears(layer, trainable).items():
            found[f"{top}.{path}"] = sizes_of(module)
        for path, module in adapted_experts(layer, trainable).items():
            for weight, (experts, inputs, outputs) in expert_sizes(module, trainable):
                found[expert_path(f"{top}.{path}", weight, weights)] = LinearSizes(inputs, (outputs,), experts)
    return found
