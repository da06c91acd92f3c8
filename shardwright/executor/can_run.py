"""The choices of a plan that can be estimated and compared, but that the engine does not run yet."""

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile, loses_errors
from shardwright.specs import OWN_STACK, Plan, TrainingSpec, skips_stages
from shardwright.specs.model import LinearAttention, MixtureOfExperts


def check_can_run(plan_file: PlanFile) -> None:
    """Refuse choices that the engine would otherwise ignore silently.

    Raises:
        SpecError: names the first such choice and what to plan with instead.
    """
    stack = plan_file.training.stack
    if stack != OWN_STACK:
        raise SpecError(
            f"the plan is for stack '{stack}'; this executor is '{OWN_STACK}': plan again without --stack, or run it with the "
            "software it is for"
        )
    if plan_file.cluster.is_mixed:
        raise SpecError(
            f"{plan_file.cluster.name} is a mixed cluster, which can be estimated and planned for, not run yet; plan for one group alone"
        )
    mesh, precision = plan_file.plan.mesh, plan_file.training.precision
    _check_linears(plan_file)
    if precision.parameters != "fp32":
        raise SpecError(
            f"{precision.parameters} parameters can be estimated and compared, not run yet; plan with parameters in fp32"
        )
    stages = plan_file.plan.stages
    if any(not stage.layers for stage in stages):
        raise SpecError(
            f"{len(stages)} stages of which one holds no layer can be estimated and compared, not run yet; give each a layer"
        )
    if plan_file.plan.zero_stage and any(not run.zero_stage for stage in stages for run in stage.layers):
        raise SpecError(
            f"zero_stage 0 in some layers and {plan_file.plan.zero_stage} in others, over cp {mesh.cp}, can be estimated and compared, "
            "not run yet; plan with one of them"
        )
    if plan_file.model_config_json.get("ladder_residual"):
        raise SpecError(
            f"{plan_file.model_name} has ladders for residuals, which can be estimated and compared, not run yet: transformers has none; "
            "remove 'ladder_residual' from its config"
        )
    job = plan_file.plan, plan_file.training
    for is_so, what, fix in (*_not_run(*job), *_not_trained(*job), *_not_frozen(plan_file)):
        if is_so:
            raise SpecError(f"{what} can be estimated and compared, not run yet; {fix}")


def _check_linears(plan_file: PlanFile) -> None:
    """Refuse lower formats of the linears that the engine does not have.

    Raises:
        SpecError: names the format.
    """
    precision, runs = plan_file.training.precision, plan_file.training.software.runs.linear_formats
    if precision.linear is None:
        return
    if precision.linear not in runs:
        raise SpecError(
            f"linear precision {precision.linear} can be estimated and compared, not run yet; plan with --linear-precision "
            f"{' or '.join(runs)}, or without it"
        )
    if precision.gather is not None:
        raise SpecError(
            f"gathers in {precision.gather} can be estimated and compared, not run yet; plan without precision.gather"
        )


def _not_run(plan: Plan, training: TrainingSpec) -> tuple[tuple[bool, str, str], ...]:
    """Choices that the engine does not run: whether the plan has each, what it is, and what to plan instead."""
    mesh, offload = plan.mesh, plan.offload
    on_host, gradients, streamed = offload.optimizer_fraction, offload.gradient_fraction, offload.parameter_fraction
    return (
        (
            gradients not in (0, on_host),
            f"{gradients:.3g} of the gradients on the host beside {on_host:.3g} of the optimizer",
            f"plan with --offload-gradients 0 or {on_host:.3g}",
        ),
        (
            streamed > 0 and on_host < 1,
            f"weights streamed from the host beside {on_host:.3g} of the optimizer there",
            "plan with --offload-optimizer 1, or with --offload-parameters 0",
        ),
        (
            streamed > 0 and mesh.data_ranks > 1 and plan.zero_stage > 0,
            f"weights that {mesh.data_ranks} data-parallel ranks shard, streamed from the host,",
            "plan with --offload-parameters 0, or with ZeRO-3 and --offload-optimizer 1",
        ),
        (
            plan.expert_dispatch != "all-to-all" and mesh.ep > 1,
            "deduplicated dispatch",
            "plan with --expert-dispatch all-to-all",
        ),
        (  # torch's runtime sends to the neighbouring stage
            skips_stages(plan.schedule),
            f"microbatches that leave out stages ({plan.schedule})",
            "plan without --allow-approximate skippipe",
        ),
        (  # torch's pipeline has no passes of a rank beside those of its stages, which the split vocabulary needs
            plan.vocabulary_parallel != "none",
            f"embedding and head split over the pipeline ({plan.vocabulary_parallel})",
            "plan with --vocabulary-parallel none",
        ),
        (
            loses_errors(plan.sync, training),
            f"sync {plan.sync.method} in fp16, whose gradients are not finite at times,",
            "plan with --sync exact, or with --precision bf16 or fp32",
        ),
    )


def _not_trained(plan: Plan, training: TrainingSpec) -> tuple[tuple[bool, str, str], ...]:
    """The same of choices of the training spec."""
    mesh = plan.mesh
    return (
        (
            training.overlaps_dispatch and mesh.ep > 1,
            "a dispatch beside another microbatch",
            "plan without --overlap-dispatch",
        ),
        (training.expert_capacity is not None, "expert_capacity", "leave it out"),
        (
            training.dispatch_pieces > 1 and mesh.ep > 1,
            f"a dispatch in {training.dispatch_pieces} pieces",
            "plan without --dispatch-pieces",
        ),
        (
            training.hot_experts > 0 and mesh.ep > 1,
            f"{training.hot_experts} hot experts on every rank",
            "plan without --hot-experts",
        ),
        (training.global_balance, "a loss on routers over all data-parallel ranks", "plan without --global-balance"),
        (
            training.method.layerwise
            and training.precision.compute == "fp16",  # a step that overflows could not be left out
            "an update of each layer in the backward pass in fp16",
            "plan without layerwise=1, or with --precision bf16 or fp32",
        ),
        (
            training.sequence_chunks > 1
            and any(run.activation_offload for stage in plan.stages for run in stage.layers),
            "layers in pieces of the sequence with activations on the host",
            "plan with --offload-activations 0, or without --sequence-chunks",
        ),
        (training.fp8_attention, "attention in fp8", "plan without --fp8-attention"),
        (training.mtp_layers > 0, "multi-token prediction", "plan without --mtp-layers"),
        (training.cuda_graphs != "none", "CUDA graphs", "plan without --cuda-graphs"),
    )


def _not_frozen(plan_file: PlanFile) -> tuple[tuple[bool, str, str], ...]:
    """The same beside frozen weights."""
    plan, trainable = plan_file.plan, plan_file.training.trainable
    if trainable.trains_all:
        return ()
    blocks = plan_file.model().layer_classes
    linear_attention = any(isinstance(block.attention, LinearAttention) for block in blocks)
    return (
        (
            trainable.base not in plan_file.training.software.runs.frozen_formats,
            f"frozen weights in {trainable.base}",
            f"plan with qlora, or with lora, whose frozen weights are in {plan_file.training.precision.compute}",
        ),
        (
            trainable.base != "compute" and plan.mesh.tp > 1,
            f"frozen weights in {trainable.base} over tp {plan.mesh.tp}",
            "plan with --tp 1",
        ),
        (
            trainable.base != "compute" and any(isinstance(block.ffn, MixtureOfExperts) for block in blocks),
            f"frozen experts in {trainable.base}",
            f"plan with lora, whose frozen weights are in {plan_file.training.precision.compute}",
        ),
        (
            trainable.base != "compute" and plan_file.training.precision.linear is not None,
            f"linears in {plan_file.training.precision.linear} beside frozen weights in {trainable.base}",
            "plan without --linear-precision",
        ),
        (trainable.dropout, "dropout of adapters", "leave out dropout=yes"),
        (
            linear_attention and trainable.has_adapters,
            "adapters of linear attention",
            "plan with --trainable all, or the last layers (layers:4)",
        ),
        (
            plan.offload.parameter_fraction > 0,
            "streamed weights beside frozen ones",
            "plan with --offload-parameters 0",
        ),
    )
