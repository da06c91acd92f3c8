from collections.abc import Mapping
from typing import Any

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from shardwright.base.errors import SpecError
from shardwright.catalog.huggingface.families import model_from_config
from shardwright.profiler.probes.compute.real_layer import AttentionMask, RealLayer, layer_skeleton
from shardwright.specs.model.model import ModelSpec
from shardwright.specs.training import Precision, TrainingSpec
from tests.catalog.huggingface.small_configs import LLAMA, SMALL, SMALL_LATENT, SMALL_MOE, SMALL_OPT
from tests.costmodel.fakes import small_model

_CPU = torch.device("cpu")
_GPT2 = {"model_type": "gpt2", "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 64, "vocab_size": 128}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "mistral": SMALL | {"model_type": "mistral", "sliding_window": 8},
    "qwen2": SMALL | {"model_type": "qwen2"},
    "qwen3": SMALL | {"model_type": "qwen3", "head_dim": 16},
    "qwen3_moe": SMALL_MOE | {"model_type": "qwen3_moe", "head_dim": 16},
    "mixtral": SMALL | {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2},
    "gpt2": _GPT2,
    "opt": SMALL_OPT | {"hidden_size": 64, "max_position_embeddings": 64, "word_embed_proj_dim": 64},
    "gpt_neox": SMALL | {"model_type": "gpt_neox"},
    "gemma": SMALL | {"model_type": "gemma", "head_dim": 16},
    "deepseek_v3": SMALL_LATENT | {"model_type": "deepseek_v3", "first_k_dense_replace": 1, "n_shared_experts": 1},
}


def read(config: Mapping[str, Any]) -> ModelSpec:
    return model_from_config(config, name="small", source="config.json")


def build(model: ModelSpec, *, seq_len: int = 16, micro_batch: int = 2, **options: Any) -> RealLayer:
    """The last layer class of the model, on the CPU."""
    training = TrainingSpec(seq_len=seq_len, global_batch=8, precision=Precision(compute="fp32"), **options)
    return layer_skeleton(model, model.layer_classes[-1], training, micro_batch, torch.float32).build(_CPU)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_of_every_family_trains(family: str) -> None:
    model = read(FAMILIES[family])
    layer = build(model)
    assert layer.hidden.shape == (2, 16, 64)
    out = layer.forward()
    assert out.shape == layer.hidden.shape
    assert bool(out.isfinite().all())
    gradients = torch.autograd.grad(out.sum(), layer.leaves, allow_unused=True)
    assert gradients[0] is not None


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "deepseek_v3"])
def test_it_has_the_parameters_that_the_cost_model_counts(family: str) -> None:
    model = read(FAMILIES[family])
    counted = sum(parameter.elements for parameter in model.layer_classes[-1].parameters(model.hidden_size))
    assert sum(weight.numel() for weight in build(model).layer.parameters()) == counted


def test_each_layer_class_is_a_layer_of_its_own() -> None:
    model = read(FAMILIES["deepseek_v3"])
    training = TrainingSpec(seq_len=16, global_batch=8, precision=Precision(compute="fp32"))
    dense, experts = (
        layer_skeleton(model, block, training, 1, torch.float32).build(_CPU).layer for block in model.layer_classes
    )
    assert not any("experts" in name for name, _ in dense.named_parameters())
    assert any("experts" in name for name, _ in experts.named_parameters())


def test_recompute_computes_the_same() -> None:
    layer = build(read(LLAMA))
    plain, again = layer.forward(), layer.forward(recompute=True)
    torch.testing.assert_close(plain, again)
    gradient = torch.randn_like(plain)
    for one, other in zip(
        torch.autograd.grad(plain, layer.leaves, gradient),
        torch.autograd.grad(again, layer.leaves, gradient),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_weights_are_in_the_compute_format_and_of_a_models_size() -> None:
    model = read(LLAMA)
    training = TrainingSpec(seq_len=16, global_batch=8, precision=Precision(compute="bf16"))
    layer = layer_skeleton(model, model.layer_classes[0], training, 1, torch.bfloat16).build(_CPU)
    assert isinstance(layer.layer, LlamaDecoderLayer)
    assert {leaf.dtype for leaf in layer.leaves} == {torch.bfloat16}
    assert layer.layer.self_attn.q_proj.weight.float().std().item() == pytest.approx(0.02, rel=0.2)
    assert layer.layer.input_layernorm.weight.float().mean().item() == 1.0


@pytest.mark.parametrize(("window", "reach"), [(None, 16), (4, 4), (64, 16)])
def test_a_query_sees_itself_and_what_came_before(window: int | None, reach: int) -> None:
    mask = AttentionMask(seq_len=16, window=window, fused=False).tensor(_CPU, torch.float32)
    assert mask is not None
    assert mask.shape == (1, 1, 16, 16)
    seen = [[query - reach < key <= query for key in range(16)] for query in range(16)]
    assert (mask[0, 0] == 0).tolist() == seen


@pytest.mark.parametrize(("window", "masked"), [(None, False), (4, True), (16, False), (64, False)])
def test_a_fused_kernel_is_causal_without_a_mask(window: int | None, masked: bool) -> None:
    mask = AttentionMask(seq_len=16, window=window, fused=True).tensor(_CPU, torch.float32)
    assert (mask is not None) == masked


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2"])
@pytest.mark.parametrize("attention", ["flash", "unfused"])
def test_no_token_sees_a_later_one(family: str, attention: str) -> None:
    layer = build(read(FAMILIES[family]), micro_batch=1, attention=attention)
    first = torch.autograd.grad(layer.forward()[0, 3].sum(), layer.hidden)[0][0].abs().sum(-1)
    assert first[4:].max() == 0
    assert first[:4].min() > 0


def test_a_window_limits_what_a_token_sees() -> None:
    layer = build(read(FAMILIES["mistral"]), micro_batch=1)
    seen = torch.autograd.grad(layer.forward()[0, 15].sum(), layer.hidden)[0][0].abs().sum(-1)
    assert [bool(each > 0) for each in seen] == [False] * 8 + [True] * 8


def test_dropout_is_off_as_the_executor_has_it() -> None:
    layer = build(read(_GPT2))
    torch.testing.assert_close(layer.forward(), layer.forward())


def test_a_model_without_a_config_is_refused() -> None:
    with pytest.raises(SpecError, match=r"^small was not read from a Hugging Face config"):
        build(small_model())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"model_type": "no-such-family"}, "no-such-family"),
        ({"hidden_act": "no-such-function"}, "no-such-function"),
    ],
)
def test_what_transformers_cannot_build_is_told_in_one_line(change: dict[str, Any], why: str) -> None:
    model = read(LLAMA).model_copy(update={"config": LLAMA | change})
    with pytest.raises(SpecError) as caught:
        build(model)
    assert str(caught.value).startswith("small: transformers cannot build a layer of it: ")
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)
