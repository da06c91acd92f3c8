"""FLOPs of a step, which don't depend on the split. MFU and HFU are computed from them."""

from shardwright.specs import Plan, RecomputePolicy, TrainingSpec
from shardwright.specs.model import Block, ModelSpec

from . import operators
from .recompute import selection


def model_flops_per_sequence(model: ModelSpec, training: TrainingSpec) -> float:
    """Return the FLOPs of one sequence's forward and backward by the usual definition of MFU.

    They are three times the matmuls of the forward, with full attention, and without embedding and recompute (Chowdhery
    et al. 2022, appendix B). A mixture of experts counts the experts that a token uses.
    """
    layers = sum(run.count * sum(_forward_flops(run.block, model, training)) for run in model.blocks)
    head = 2.0 * training.seq_len * model.hidden_size * model.vocab_size
    return 3.0 * (layers + head)


def recompute_flops_per_sequence(model: ModelSpec, training: TrainingSpec, plan: Plan) -> float:
    """Return the FLOPs that `plan` computes a second time for one sequence."""
    layers = (layer for stage in plan.stages for layer in stage.each_layer())
    scores_again = training.attention == "unfused"
    total = 0.0
    for layer, kind in zip(layers, model.class_of_layer, strict=True):
        block = model.layer_classes[kind]
        matmuls, core = _forward_flops(block, model, training)
        full = matmuls + core
        if training.software.stops_recompute_early:
            full -= float(operators.ffn_matmuls(block, model.hidden_size, training.seq_len, 1)[-1].flops)
        chosen = selection(block, training, model.hidden_size, training.seq_len, 1, 1)
        selective = core * scores_again if chosen is None else float(sum(matmul.flops for matmul in chosen.repeated))
        again: dict[RecomputePolicy, float] = {"none": 0.0, "selective": selective, "full": full}
        total += again[layer.recompute]
    return total


def _forward_flops(block: Block, model: ModelSpec, training: TrainingSpec) -> tuple[float, float]:
    """Return the forward FLOPs of one layer and one sequence: weight matmuls, and attention core."""
    tokens, hidden = training.seq_len, model.hidden_size
    matmuls = [*operators.attention_matmuls(block, hidden, tokens, 1), *operators.ffn_matmuls(block, hidden, tokens, 1)]
    core = operators.attention_core_flops(block, training, tokens, 1, causal=False)
    return float(sum(matmul.flops for matmul in matmuls)), float(core)
