"""A plan in words, for tables and reports."""

from shardwright.costmodel import document_words, in_groups, piece_words, schedule_words
from shardwright.specs import OWN_STACK, Plan, TrainingSpec, skips_stages

_ZERO = {
    0: "replicated",
    1: "optimizer state sharded (ZeRO-1)",
    2: "optimizer state and gradients sharded (ZeRO-2)",
    3: "parameters, gradients and optimizer state sharded (ZeRO-3)",
}


def recompute_words(plan: Plan) -> str:
    """`none`, `full`, or counts of layers where they differ: `none 60, full 20`."""
    return in_groups(plan, _recompute_words, "; ")


def _recompute_words(plan: Plan) -> str:
    counts: dict[str, int] = {}
    for stage in plan.stages:
        for run in stage.layers:
            counts[run.recompute] = counts.get(run.recompute, 0) + run.count
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{policy} {counts[policy]}" for policy in ("none", "selective", "full") if policy in counts)


def batch_words(plan: Plan) -> str:
    """The parts of the global batch."""
    return in_groups(plan, _batch_words, "; ")


def _batch_words(plan: Plan) -> str:
    return f"{plan.mesh.dp} data-parallel x {plan.microbatches} microbatches x {plan.micro_batch} sequences"


def sharding_words(plan: Plan) -> str:
    """What data-parallel ranks shard, and over how many."""
    words = _ZERO[plan.zero_stage]
    if plan.zero_stage and plan.mesh.dp_replicate > 1:
        return f"{words} over {plan.mesh.shard_ranks} ranks, {plan.mesh.dp_replicate} copies"
    return f"{words} over {plan.mesh.shard_ranks} ranks" if plan.zero_stage else words


def context_words(plan: Plan) -> str:
    """How the ranks of cp see the whole sequence: `ring over 4 ranks`."""
    trading = f", {plan.ulysses_degree} of them trading heads" if plan.ulysses_degree > 1 else ""
    return f"{plan.context_parallel} over {plan.mesh.cp} ranks{trading}"


def expert_words(plan: Plan) -> str:
    """How experts and their tokens are spread: `over 8 ranks, 2 split each, all-to-all`."""
    split = f", {plan.mesh.expert_tp} split each" if plan.mesh.expert_tp > 1 else ""
    return f"over {plan.mesh.ep} ranks{split}, {plan.expert_dispatch}"


def choice_words(plan: Plan) -> str:
    """The choices that distinguish plans, in one line."""
    words = [str(plan.mesh)]
    if plan.zero_stage:
        words.append(f"ZeRO-{plan.zero_stage}")
    if plan.mesh.pp > 1:
        words.append(schedule_words(plan))
    if plan.vocabulary_parallel != "none":
        words.append(f"vocabulary by {plan.vocabulary_parallel}")
    if plan.mesh.cp > 1:
        words.append(f"context by {plan.context_parallel}")
    if plan.mesh.ep > 1 and plan.expert_dispatch != "all-to-all":
        words.append(f"{plan.expert_dispatch} dispatch")
    words += [f"micro batch {in_groups(plan, lambda one: str(one.micro_batch))}"]
    if plan.replicas:
        words.append(f"microbatches {in_groups(plan, lambda one: str(one.microbatches))}")
    words += [f"recompute {recompute_words(plan)}"]
    if plan.offload.optimizer_fraction:
        words.append(f"optimizer {plan.offload.optimizer_place}")
    words += plan.offload.others
    if plan.activation_place:
        words.append(f"activations {plan.activation_place}")
    if plan.sync.approximate:
        words.append(f"approximate: {plan.sync}")
    return "; ".join(words)


def plan_lines(plan: Plan) -> list[tuple[str, str]]:
    """Every choice as (what, value)."""
    lines = [
        ("mesh", f"{plan.mesh} ({plan.mesh.ranks} ranks)"),
        ("batch", batch_words(plan)),
        ("pipeline schedule", schedule_words(plan)),
        ("stages", in_groups(plan, _stage_words)),
        ("data parallel", sharding_words(plan)),
        ("recompute", recompute_words(plan)),
        ("optimizer", ", ".join((plan.offload.optimizer_place, *plan.offload.others))),
    ]
    if plan.activation_place:
        lines.append(("activations", plan.activation_place))
    if plan.vocabulary_parallel != "none":
        lines.append(("vocabulary", f"split over the pipeline by {plan.vocabulary_parallel}"))
    if plan.mesh.tp > 1:
        lines.append(("sequence parallel", "yes" if plan.sequence_parallel else "no"))
    if plan.mesh.cp > 1:
        lines.append(("context parallel", context_words(plan)))
    if plan.mesh.ep > 1:
        lines.append(("experts", expert_words(plan)))
    if skips_stages(plan.schedule):
        lines.append(("paths", "approximate: microbatches leave out stages"))
    if plan.sync.approximate:
        lines.append(("replicas", f"approximate: {plan.sync}"))
    return lines


def _stage_words(plan: Plan) -> str:
    layers = [stage.layer_count for stage in plan.stages]
    return f"{layers[0]} layers" if len(layers) == 1 else f"{len(layers)} of {_ranges(layers)} layers"


def training_lines(training: TrainingSpec) -> list[tuple[str, str]]:
    """Unusual options of the training, as (what, value): other software, lower formats."""
    lines = [("software", training.stack)] if training.stack != OWN_STACK else []
    if not training.trainable.trains_all:
        lines.append(("trainable", f"{training.trainable}, everything else frozen"))
    if words := piece_words(training):
        lines.append(("pieces", words))
    if training.lengths:
        lines.append(("documents", document_words(training)))
    if training.approximate:
        lines.append(("tokens to experts", f"approximate: means of {training.tokens_per_centroid}"))
    if training.precision.linear:
        lines.append(("linear layers", f"{training.precision.linear}, the rest {training.precision.compute}"))
    return lines


def _ranges(values: list[int]) -> str:
    return str(values[0]) if min(values) == max(values) else f"{min(values)} to {max(values)}"
