"""FLOPs of a step, which don't depend on the split. MFU and HFU are computed from them."""

from collections import Counter

from shardwright.specs import Plan, RecomputePolicy, TrainingSpec, skips_stages, visits
from shardwright.specs.model import Block, FeedForward, ModelSpec

from . import operators
from .core import attention_core_flops
from .frozen import Adapters
from .recompute import not_run_again, of_first_half, repeated_modules, selection
from .traffic import joins_attention


def model_flops_per_sequence(model: ModelSpec, training: TrainingSpec, *, causal: bool = False) -> float:
    """Return the FLOPs of one sequence's forward and backward by the usual definition of MFU. `causal`: with only the half of
    attention that a causal mask leaves.

    They are three times the matmuls of the forward, with full attention, and without embedding and recompute (Chowdhery
    et al. 2022, appendix B). A mixture of experts counts the experts that a token uses. A multi-token prediction layer counts as a layer
    like the last, its projection and another head, as Megatron-Core counts it (training.py, num_floating_point_operations).

    A frozen weight has no gradient: its matmul counts twice, and once in a layer that no backward pass reaches. Adapters count three times.
    """
    model, trainable = model.trained_as(training.trainable), training.trainable
    layers = sum(
        run.count * _step_flops(half, model, training, causal=causal)
        for run in model.blocks
        for half in run.block.halves
    )
    head = (2.0 + trainable.trains_head) * 2.0 * training.seq_len * model.hidden_size * model.vocab_size
    joined = (2.0 + trainable.trains_layer_weights) * 2.0 * training.seq_len * 2 * model.hidden_size**2
    last = model.blocks[-1].block.halves
    prediction = sum(_step_flops(half, model, training, causal=causal) for half in last) + joined + head
    return layers + head + training.mtp_layers * prediction


def left_out_flops_per_sequence(model: ModelSpec, training: TrainingSpec, plan: Plan) -> float:
    """Return the FLOPs of `model_flops_per_sequence` that a plan leaves out of a sequence on average, where microbatches leave out stages."""
    if not skips_stages(plan.schedule):
        return 0.0
    model = model.trained_as(training.trainable)
    blocks = (model.layer_classes[kind] for kind in model.class_of_layer)
    return sum(
        (1 - share) * _step_flops(half, model, training, causal=False)
        for block, share in zip(blocks, _passed_shares(plan), strict=True)
        for half in block.halves
    )


def _passed_shares(plan: Plan) -> list[float]:
    """Return for each layer the share of the microbatches that pass it."""
    passed = visits(plan.schedule, plan.mesh.pp, len(plan.stages), plan.microbatches) / plan.microbatches
    return [float(share) for stage, share in zip(plan.stages, passed, strict=True) for _ in range(stage.layer_count)]


def _step_flops(block: Block, model: ModelSpec, training: TrainingSpec, *, causal: bool) -> float:
    """Return the FLOPs of one layer and one sequence, forward and backward."""
    matmuls, core = _forward_flops(block, model, training, causal=causal)
    if block.frozen:
        return matmuls + core
    adapters = 3.0 * _adapter_flops(block, model, training)
    return (2.0 + training.trainable.trains_layer_weights) * matmuls + 3.0 * core + adapters


def adapter_parameters(model: ModelSpec, training: TrainingSpec) -> float:
    """Return the elements of all adapters of the model."""
    return sum(
        run.count * float(Adapters(training, _weight_matmuls(half, model, training)).parameters)
        for run in model.blocks
        for half in run.block.halves
    )


def _adapter_flops(block: Block, model: ModelSpec, training: TrainingSpec) -> float:
    """Return the forward FLOPs of one layer's adapters and one sequence."""
    return float(sum(matmul.flops for matmul in Adapters(training, _weight_matmuls(block, model, training)).matmuls))


def _weight_matmuls(block: Block, model: ModelSpec, training: TrainingSpec) -> list[operators.Matmul]:
    """Return the weight matmuls of one layer and one sequence, as the stack joins them."""
    tokens, hidden, stack = training.seq_len, model.hidden_size, training.software
    return [
        *operators.attention_matmuls(block, hidden, tokens, 1, joined=joins_attention(block, model, stack)),
        *operators.ffn_matmuls(block, hidden, tokens, 1, joined=stack.joined_projections),
    ]


def recompute_flops_per_sequence(model: ModelSpec, training: TrainingSpec, plan: Plan) -> float:
    """Return the FLOPs that `plan` computes a second time for one sequence."""
    model = model.trained_as(training.trainable)
    policies = (layer.recompute for stage in plan.stages for layer in stage.each_layer())
    alike = Counter(zip(model.class_of_layer, policies, _passed_shares(plan), strict=True))
    return sum(
        share * count * (_repeated_flops(half, model, of_half, policy) + _tiled_flops(half, model, training))
        for (kind, policy, share), count in alike.items()
        for half, of_half in _halves(model.layer_classes[kind], training)
    )


def _halves(block: Block, training: TrainingSpec) -> list[tuple[Block, TrainingSpec]]:
    """Return the halves of a layer, or the layer, each with the training as it sees it."""
    seen = [training] if block.shortcut is None else [of_first_half(training), training]
    return list(zip(block.halves, seen, strict=True))


def _tiled_flops(block: Block, model: ModelSpec, training: TrainingSpec) -> float:
    """Return the FLOPs of the forwards that a tiled feed-forward runs again."""
    if training.mlp_tiles == 1 or block.frozen or not isinstance(block.ffn, FeedForward):
        return 0.0
    job, joined = (block, model.hidden_size, training.seq_len, 1), training.software.joined_projections
    matmuls = operators.ffn_matmuls(*job, joined=joined)
    again = [*operators.tiled_again(matmuls, training.software), *Adapters(training, matmuls).matmuls]
    return float(sum(matmul.flops for matmul in again))


def _repeated_flops(block: Block, model: ModelSpec, training: TrainingSpec, policy: RecomputePolicy) -> float:
    """Return the FLOPs that one layer computes a second time for one sequence."""
    if (policy == "none" and training.sequence_chunks == 1) or block.frozen:
        return 0.0
    matmuls, core = _forward_flops(block, model, training)
    if training.sequence_chunks > 1:
        last = _weight_matmuls(block, model, training)[-1:]
        inside = matmuls + core - float(sum(matmul.flops for matmul in last)) + _adapter_flops(block, model, training)
        before = 1 - 1 / training.sequence_chunks  # all pieces but the last
        return inside + (before * matmuls + before**2 * core) * (policy == "full")
    if policy == "full":
        matmuls += _adapter_flops(block, model, training)
        if not training.software.stops_recompute_early:
            return matmuls + core
        tiles = training.mlp_tiles if isinstance(block.ffn, FeedForward) else 1
        early = not_run_again(block, model, tiles, _weight_matmuls(block, model, training))
        if tiles > 1:
            early += Adapters(training, early).matmuls
        return matmuls + core - float(sum(matmul.flops for matmul in early))
    if training.recompute_modules:
        modules = repeated_modules(block, model, training, training.seq_len, 1, 1, operators.experts_as_the_rest(1))
        return float(sum(matmul.flops for matmul in modules.matmuls)) + core * modules.core
    chosen = selection(block, training, model.hidden_size, training.seq_len, 1, 1)
    if chosen is None:
        return core * (training.attention == "unfused")
    return float(sum(matmul.flops for matmul in chosen.repeated)) + core * chosen.core


def _forward_flops(
    block: Block, model: ModelSpec, training: TrainingSpec, *, causal: bool = False
) -> tuple[float, float]:
    """Return the forward FLOPs of one layer and one sequence: weight matmuls, and attention core."""
    tokens, hidden = training.seq_len, model.hidden_size
    matmuls = [*operators.attention_matmuls(block, hidden, tokens, 1), *operators.ffn_matmuls(block, hidden, tokens, 1)]
    core = attention_core_flops(block, training, tokens, 1, causal=causal)
    return float(sum(matmul.flops for matmul in matmuls)), float(core)
