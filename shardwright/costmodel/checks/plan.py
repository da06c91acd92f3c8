"""A plan against a model, a batch and a cluster, before any cost: what divides, and what goes together."""

import math

from shardwright.base import SpecError, divisors, listed
from shardwright.costmodel.layers.operators import attention_matmuls, ffn_matmuls
from shardwright.costmodel.optimizers import check_optimizer, check_updates
from shardwright.specs import (
    MODULE_GROUPS,
    PIPELINE_OUTERMOST,
    PLAIN_STRATEGIES,
    ClusterSpec,
    Plan,
    ScheduleName,
    Sync,
    TrainingSpec,
)
from shardwright.specs.model import LinearAttention, MixtureOfExperts, ModelSpec

from .sequence import check_context_parallel, check_sequence, check_sequence_chunks

EXPERT_COLUMNS = "columns of an expert"
MIXED_SCHEDULES: tuple[ScheduleName, ...] = ("1f1b", "gpipe")
"""The schedules of plans on mixed clusters: one stage on each rank, whole backwards."""


def check_plan(plan: Plan, model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec) -> None:
    """Check everything that must divide.

    Raises:
        SpecError: the first thing that does not divide, with its numbers and the values that would.
    """
    mesh = plan.mesh
    if plan.replicas:
        check_replicas(plan, model, cluster, training)
        return
    if mesh.ranks > cluster.devices:
        raise SpecError(f"the plan needs {mesh.ranks} ranks ({mesh}) and {cluster.name} has {cluster.devices} devices")
    if len(plan.stages) > model.layer_count + 2 + (plan.mtp_stage is not None):
        raise SpecError(
            f"{len(plan.stages)} stages are more than the {model.layer_count} layers of {model.name}, its embedding and its head"
        )
    if plan.layer_count != model.layer_count:
        raise SpecError(f"the plan's stages hold {plan.layer_count} layers and {model.name} has {model.layer_count}")
    if plan.global_batch != training.global_batch:
        raise SpecError(
            f"dp {mesh.dp} x micro batch {plan.micro_batch} x {plan.microbatches} microbatches is {plan.global_batch} "
            f"sequences, the global batch is {training.global_batch}"
        )
    if training.activation_offload_layers and len(plan.strategies) > len(PLAIN_STRATEGIES):
        raise SpecError(
            f"the plan offloads activations of tokens and the training those of {training.activation_offload_layers} whole layers; "
            "leave out activation_offload_layers, or activation_offload of the plan"
        )
    placed = sum(stage.mtp_layers for stage in plan.stages)
    if placed and placed != training.mtp_layers:
        raise SpecError(f"the plan's stages hold {placed} mtp_layers and the training has {training.mtp_layers}")
    check_sequence(model, training)
    check_layer_counts(model, training)
    check_trainable(model, training)
    check_optimizer(model, training)
    check_updates(plan, training)
    check_tensor_parallel(mesh.tp, model, training, sequence_parallel=plan.sequence_parallel, expert_tp=mesh.expert_tp)
    split = plan.sequence_parallel
    trading = plan.ulysses_degree if plan.context_parallel == "ulysses-ring" else mesh.cp
    check_context_parallel(
        mesh.cp, mesh.tp, plan.context_parallel, model, training, sequence_parallel=split, ulysses_degree=trading
    )
    check_expert_parallel(mesh.ep, mesh.expert_tp, model, training)
    if training.approximate and plan.expert_dispatch != "all-to-all":
        raise SpecError(
            f"expert_dispatch '{plan.expert_dispatch}' sends one copy of a token for several experts, and tokens_per_centroid "
            f"{training.tokens_per_centroid} means for one expert each; set 'all-to-all'"
        )
    check_sequence_chunks(model, training, cp=mesh.cp, sequence_parallel=split and mesh.tp > 1)
    check_mixed(plan, cluster)
    if reason := why_not_agree(plan.sync, training):
        raise SpecError(reason)


def why_not_agree(sync: Sync, training: TrainingSpec) -> str | None:
    """Say why replicas of this training cannot agree so; None where they can."""
    if sync.method == "1-bit-adam" and training.optimizer != "adamw":
        return f"sync 1-bit-adam exchanges Adam's momentum, and the optimizer is {training.optimizer}; train with adamw, or leave sync out"
    return None


def loses_errors(sync: Sync, training: TrainingSpec) -> bool:
    """Whether gradients that are not finite, which fp16 has at times, would enter the errors that compression feeds back."""
    return sync.bits is not None and sync.outer is None and training.precision.compute == "fp16"


def check_replicas(plan: Plan, model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec) -> None:
    """Check a plan whose data parallelism reaches over groups: the batch, and in each group its replicas as on a cluster of it alone.

    Raises:
        SpecError: the cluster has other groups, a group has too few devices, or what does not divide in one of them.
    """
    if not cluster.is_mixed or len(plan.replicas) != len(cluster.groups):
        groups = f"{len(cluster.groups)} groups" if cluster.is_mixed else "nodes of one kind"
        raise SpecError(
            f"the plan has replicas in {len(plan.replicas)} groups and {cluster.name} has {groups}; give an item for each"
        )
    check_choices(plan, cluster)
    if plan.global_batch != training.global_batch:
        parts = " + ".join(
            f"{group.count} replicas x dp_shard {plan.mesh.dp_shard} x micro batch {group.micro_batch} x {group.microbatches} microbatches"
            for group in plan.replicas
        )
        raise SpecError(f"{parts} is {plan.global_batch} sequences, the global batch is {training.global_batch}")
    for index in range(len(plan.replicas)):
        own = plan.of_group(index)
        check_plan(own, model, cluster.alone(index), training.model_copy(update={"global_batch": own.global_batch}))


def check_mixed(plan: Plan, cluster: ClusterSpec) -> None:
    """Check what a plan on a mixed cluster must keep: each pipeline rank lies in one group, with one stage.

    Raises:
        SpecError: the mesh lays a rank over two groups, or the plan has a choice that is not available there.
    """
    if cluster.is_mixed:
        check_choices(plan, cluster)
        cluster.groups_of_ranks(plan.mesh.pp, plan.mesh.ranks // plan.mesh.pp)


def check_choices(plan: Plan, cluster: ClusterSpec) -> None:
    """Check the choices that plans on a mixed cluster leave out.

    Raises:
        SpecError: the plan has one of them.
    """
    choices = {
        "order": (plan.mesh.order, (PIPELINE_OUTERMOST,)),
        "schedule": (plan.schedule, MIXED_SCHEDULES),
        "vocabulary_parallel": (plan.vocabulary_parallel, ("none",)),
    }
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            raise SpecError(
                f"{name} {value} is not available on {cluster.name}, a mixed cluster; allowed: {listed(allowed)}"
            )


def check_layer_counts(model: ModelSpec, training: TrainingSpec) -> None:
    """Check that the model has the layers that the training counts.

    Raises:
        SpecError: it has fewer.
    """
    counts = {
        "high_precision_layers": training.high_precision_layers,
        "activation_offload_layers": training.activation_offload_layers,
    }
    for name, count in counts.items():
        if count > model.layer_count:
            raise SpecError(
                f"{name} is {count} and {model.name} has {model.layer_count} layers; give at most {model.layer_count}"
            )


def check_trainable(model: ModelSpec, training: TrainingSpec) -> None:
    """Check that the model has what is trained.

    Raises:
        SpecError: it has fewer layers, its head is its embedding, or it has none of the linears that get adapters; or the stack has no
            frozen weights in such a format.
    """
    model.trained_as(training.trainable)
    if not training.trainable.has_adapters:
        return
    base, runs = training.trainable.base, training.software.runs
    if base not in runs.frozen_formats:
        raise SpecError(
            f"stack '{training.stack}' runs frozen weights in {listed(runs.frozen_formats)}, not in {base}; choose one of these, or another --stack"
        )
    if base != "compute" and model.family in runs.unquantized_families:
        raise SpecError(
            f"{model.name} has several linears in one weight, which does not lie in {base} in stack {training.stack}; give --trainable lora"
        )
    experts = any(isinstance(block.ffn, MixtureOfExperts) for block in model.layer_classes)
    if base != "compute" and experts and not runs.divides_quantized:
        raise SpecError(
            f"stack '{training.stack}' runs no frozen experts in {base}; give --trainable lora, or choose another --stack"
        )
    linears = {
        module
        for layer in model.layer_classes
        for block in layer.halves
        for matmul in (*attention_matmuls(block, 1, 1, 1), *ffn_matmuls(block, 1, 1, 1))
        for module in matmul.modules
    }
    lacking = [
        target for target in training.trainable.targets if linears.isdisjoint(MODULE_GROUPS.get(target, (target,)))
    ]
    if lacking:
        raise SpecError(f"{model.name} has no {', '.join(lacking)} to adapt; it has {', '.join(sorted(linears))}")


def check_expert_parallel(ep: int, expert_tp: int, model: ModelSpec, training: TrainingSpec) -> None:
    """Check that `ep` divides the experts of every layer that has experts, and that the stack lets `expert_tp` ranks share one.

    Raises:
        SpecError: `ep` does not divide, with the numbers and the degrees that would; the model has no experts; their biases
            stand in the way of sharing.
    """
    if ep == 1:
        return
    if model.family in training.software.runs.unspread_families:
        raise SpecError(f"ep {ep} does not spread the experts of {model.name} in stack {training.stack}; set ep 1")
    experts = [block.ffn for block in model.layer_classes if isinstance(block.ffn, MixtureOfExperts)]
    counts = [layer.experts for layer in experts]
    if not counts:
        raise SpecError(f"ep {ep} spreads experts and {model.name} has none; set ep 1")
    if expert_tp > 1 and any(layer.bias for layer in experts) and not training.software.runs.shares_biased_experts:
        raise SpecError(
            f"{expert_tp} ranks cannot share the columns of {model.name}'s experts, which have biases, in stack {training.stack}; set etp 1, "
            "or an ep that is a multiple of tp"
        )
    common = math.gcd(*counts)
    if common % ep:
        raise SpecError(
            f"ep {ep} does not divide the {counts[0]} experts of {model.name}; allowed: {listed(divisors(common))}"
        )


def check_tensor_parallel(
    tp: int, model: ModelSpec, training: TrainingSpec, *, sequence_parallel: bool, expert_tp: int | None = None
) -> None:
    """Check that `tp` divides heads, KV heads, feed-forward widths and, under sequence parallelism, the sequence.

    Experts that ep spreads are split over `expert_tp` ranks; left out, over those of tp.

    Raises:
        SpecError: `tp` does not divide; names the size and the degrees that would. The stack divides no layers of the model's family.
    """
    undivided, base = training.software.runs.undivided_families, training.trainable.base
    if tp > 1 and base != "compute" and not training.software.runs.divides_quantized:
        raise SpecError(
            f"tp {tp} does not divide frozen weights in {base} in stack {training.stack}; set tp 1, or give --trainable lora"
        )
    if tp > 1 and (model.family in undivided or (model.alibi and "alibi" in undivided)):
        raise SpecError(f"tp {tp} does not divide the layers of {model.name} in stack {training.stack}; set tp 1")
    sizes = tensor_parallel_sizes(model, training, sequence_parallel=sequence_parallel)
    of_experts = expert_tp or tp
    for what, size in sizes.items():
        if size % (of_experts if what == EXPERT_COLUMNS else tp):
            common = math.gcd(*sizes.values())
            allowed = [degree for degree in range(1, min(common, 64) + 1) if common % degree == 0]
            raise SpecError(f"tp {tp} does not divide the {size} {what} of {model.name}; allowed: {listed(allowed)}")


def tensor_parallel_sizes(model: ModelSpec, training: TrainingSpec, *, sequence_parallel: bool) -> dict[str, int]:
    """Return by name the sizes that a tp degree must divide."""
    sizes: dict[str, int] = {}
    for block in model.layer_classes:
        if isinstance(block.attention, LinearAttention):
            sizes.setdefault("heads of linear attention", block.attention.heads)
            sizes.setdefault("key heads of linear attention", block.attention.kv_heads)
        elif block.has_attention:
            sizes.setdefault("attention heads", block.attention.heads)
            sizes.setdefault("KV heads", block.attention.kv_heads)
        if isinstance(block.ffn, MixtureOfExperts):
            sizes.setdefault(EXPERT_COLUMNS, block.ffn.expert_width)
            if block.shortcut:
                sizes.setdefault("feed-forward columns", math.gcd(block.shortcut.width, block.ffn.shared_width))
        elif block.has_ffn:
            sizes.setdefault("feed-forward columns", block.ffn.width)
    if sequence_parallel:
        sizes["tokens of a sequence"] = training.seq_len
    return sizes
