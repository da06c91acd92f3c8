import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shardwright.executor.model.hugging_face import read_skeleton
from shardwright.executor.model.initial_weights import drawing_from, materialise
from tests.parity.cases import FamilyName, layers, model_config, plan, plan_file

CPU = torch.device("cpu")


def _part(family: FamilyName, path: str, *, seed: int = 1, count: int = 2, **changes: Any) -> nn.Module:
    config = model_config(family, layers=count, **changes)
    model = read_skeleton(plan_file(config, plan((layers(count),)))).model
    part = model.get_submodule(path)
    materialise(part, name=path, model=model, seed=seed, device=CPU)
    return part


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in module.state_dict().items()}


def test_a_layer_is_the_same_alone_and_in_the_whole_model() -> None:
    alone = _state(_part("qwen3", "model.layers.1"))
    whole = _state(_part("qwen3", "model"))
    assert all(torch.equal(value, whole[f"layers.1.{name}"]) for name, value in alone.items())


def test_layers_seeds_and_projections_differ() -> None:
    first, second = _part("llama", "model.layers.0"), _part("llama", "model.layers.1")
    other = _part("llama", "model.layers.0", seed=2)
    weight = first.get_parameter("mlp.gate_proj.weight")
    assert not torch.equal(weight, first.get_parameter("mlp.up_proj.weight"))
    assert not torch.equal(weight, second.get_parameter("mlp.gate_proj.weight"))
    assert not torch.equal(weight, other.get_parameter("mlp.gate_proj.weight"))


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    _part("gpt2", "transformer")
    assert torch.equal(torch.rand(4), expected)


def test_draws_are_those_of_torchs_own_seed() -> None:
    """On which every run so far rests that goes on."""
    torch.manual_seed(11)
    expected = torch.rand(4)
    with drawing_from(11, CPU):
        assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize(
    ("family", "path", "deviation"),
    [
        ("llama", "model.embed_tokens.weight", 0.2),
        ("qwen3", "model.layers.0.self_attn.q_proj.weight", 0.2),
        ("gpt2", "transformer.h.0.attn.c_attn.weight", 0.2),
        ("gpt2", "transformer.h.0.attn.c_proj.weight", 0.2 / math.sqrt(2 * 2)),  # scaled by depth: two layers
        ("gpt2", "transformer.h.0.mlp.c_proj.weight", 0.2 / math.sqrt(2 * 2)),
    ],
)
def test_weights_follow_the_models_own_rule(family: FamilyName, path: str, deviation: float) -> None:
    module, _, name = path.rpartition(".")
    top = ".".join(module.split(".")[:3])  # the rule for a projection may stand with the block around it
    part = _part(family, top)
    weight = part.get_parameter(f"{module.removeprefix(top).lstrip('.')}.{name}".lstrip("."))
    assert float(weight.detach().std()) == pytest.approx(deviation, rel=0.1)


def test_norms_start_at_one_and_biases_at_zero() -> None:
    block = _part("gpt2", "transformer.h.0")
    assert torch.equal(block.get_parameter("ln_1.weight"), torch.ones(32))
    assert torch.equal(block.get_parameter("attn.c_attn.bias"), torch.zeros(96))


def test_the_padding_row_is_zero() -> None:
    weight = _part("llama", "model.embed_tokens", pad_token_id=5).get_parameter("weight")
    assert not weight[5].any()
    assert weight[4].any()


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "default", "rope_theta": 500_000.0},
        {
            "rope_type": "llama3",
            "rope_theta": 500_000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    ],
)
def test_rotary_tables_are_those_of_a_model_built_in_memory(rope: dict[str, object]) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = model_config("llama", rope_parameters=rope)
    expected = LlamaForCausalLM(LlamaConfig.from_dict(config)).model.rotary_emb.inv_freq
    own = _part("llama", "model.rotary_emb", rope_parameters=rope).get_buffer("inv_freq")
    torch.testing.assert_close(own, expected)
