"""FLOPs by the published definitions."""

import pytest

from shardwright.catalog.huggingface.load import load_model
from shardwright.costmodel.layers.flops import model_flops_per_sequence, recompute_flops_per_sequence
from shardwright.specs.mesh import Mesh
from shardwright.specs.plan import LayerRun, Plan, RecomputePolicy, Stage
from shardwright.specs.training import TrainingSpec
from tests.costmodel.fakes import small_model


def test_megatron_formula() -> None:
    """Narayanan et al. 2021, equation 3, without recompute: 72 B s l h^2 (1 + s/6h + V/12lh)."""
    model = load_model("gpt3-175b")
    seq, hidden, layers, vocab = 2048, 12288, 96, model.vocab_size
    published = 72 * seq * layers * hidden**2 * (1 + seq / (6 * hidden) + vocab / (12 * layers * hidden))
    assert model_flops_per_sequence(model, TrainingSpec(seq_len=seq, global_batch=1)) == pytest.approx(published)


def test_all_but_weight_matmuls_repeats_the_attention_core() -> None:
    """Paxml's, beside MaxText's, which keeps it: 2 x 2 x 4096 FLOPs for each element of 32 heads of 128, layer and token."""
    model = load_model("llama-2-7b")
    layer = LayerRun(count=32, zero_stage=0, recompute="selective")
    plan = Plan(mesh=Mesh(), micro_batch=1, microbatches=1, stages=(Stage(layers=(layer,)),))
    repeated = {
        stack: recompute_flops_per_sequence(model, TrainingSpec(seq_len=4096, global_batch=1, stack=stack), plan)
        for stack in ("xla", "paxml")
    }
    assert repeated["xla"] == 0
    assert repeated["paxml"] == pytest.approx(32 * 4096 * 2 * 2 * 4096 * 32 * 128)


def test_a_mixture_counts_the_experts_in_use() -> None:
    model, training = load_model("mixtral-8x7b"), TrainingSpec(seq_len=1, global_batch=1)
    embedding = model.vocab_size * model.hidden_size
    weights = model.active_parameter_count - embedding
    assert model_flops_per_sequence(model, training) == pytest.approx(6 * weights, rel=1e-3)


def test_full_recompute_repeats_the_layers_forward() -> None:
    model, training = load_model("gpt2-124m"), TrainingSpec(seq_len=1024, global_batch=4, attention="unfused")

    def again(policy: str) -> float:
        layers = LayerRun.parse({"count": model.layer_count, "recompute": policy}, source="test")
        plan = Plan(mesh=Mesh(), micro_batch=1, microbatches=4, stages=(Stage(layers=(layers,)),))
        return recompute_flops_per_sequence(model, training, plan)

    head = 2 * 1024 * model.hidden_size * model.vocab_size
    assert again("none") == 0
    down = 2 * 1024 * 4 * model.hidden_size**2 * model.layer_count  # its output is read by nothing in the backward pass
    assert again("full") == pytest.approx(model_flops_per_sequence(model, training) / 3 - head - down)
    assert 0 < again("selective") < again("full")


def test_a_multi_token_prediction_layer_counts_as_a_layer_a_projection_and_a_head() -> None:
    """6 T (weights of the layer + 2 h^2 + h V), and its attention, which is that of the other layers."""
    model = load_model("llama-3.2-1b")
    plain, found = (
        model_flops_per_sequence(model, TrainingSpec(seq_len=128, global_batch=1, mtp_layers=layers))
        for layers in (0, 2)
    )
    head, projection = 2 * 128 * model.hidden_size * model.vocab_size, 2 * 128 * 2 * model.hidden_size**2
    layer = (plain / 3 - head) / model.layer_count
    assert found - plain == pytest.approx(2 * 3 * (layer + projection + head))


def test_megatron_repeats_the_last_matmul_too() -> None:
    """Its checkpoint runs the whole layer again; torch's ends once it has what the backward pass reads."""
    model = load_model("llama-3.2-1b")
    layers = LayerRun(count=model.layer_count, recompute="full")
    plan = Plan(mesh=Mesh(), micro_batch=1, microbatches=1, stages=(Stage(layers=(layers,)),))
    early, whole = (
        recompute_flops_per_sequence(model, TrainingSpec(seq_len=128, global_batch=1, stack=stack), plan)
        for stack in ("shardwright", "megatron-core")
    )
    width = model.layer_classes[0].ffn.active_width
    assert whole - early == pytest.approx(2 * 128 * width * model.hidden_size * model.layer_count)


@pytest.mark.parametrize(("recompute", "around"), [("none", 0), ("full", 1)])
def test_pieces_of_the_sequence_run_again(recompute: RecomputePolicy, around: int) -> None:
    """All but the last matmul of each piece; under full recompute three of four pieces as a whole before, which see 9/16 of the pairs."""
    model = small_model()
    plan = Plan(
        mesh=Mesh(), micro_batch=1, microbatches=1, stages=(Stage(layers=(LayerRun(count=4, recompute=recompute),)),)
    )
    training = TrainingSpec(seq_len=128, global_batch=1, sequence_chunks=4)
    linears, last = 2 * 128 * (64 * (64 + 2 * 32 + 64) + 3 * 64 * 128), 2 * 128 * 128 * 64
    core = 4 * 128 * 128 * 64
    expected = linears + core - last + around * (0.75 * linears + 9 / 16 * core)
    assert recompute_flops_per_sequence(model, training, plan) == pytest.approx(4 * expected)
