"""Divisions over tp: those of transformers' plans, those that rules add, and what is refused by name."""

from typing import Any

import pytest

from shardwright.base.errors import SpecError
from shardwright.catalog.huggingface.load import load_model
from shardwright.executor.model import rules
from shardwright.executor.model.check_division import check_tensor_parallel
from shardwright.executor.model.division import LayerDivision
from shardwright.executor.model.fused import unfuse
from shardwright.executor.model.hugging_face import read_skeleton
from tests.parity.cases import layers, plan, plan_file
from tests.parity.families import FAMILIES

BLOOM = {"model_type": "bloom", "hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 100}
TP = plan((layers(),), tp=2)


def division(config: dict[str, Any]) -> LayerDivision:
    """That of the last layer."""
    skeleton = read_skeleton(plan_file(config, TP))
    unfuse(skeleton.layer(1), skeleton.config)
    return rules.layer_division(skeleton.model, skeleton.layer(1), skeleton.structure.layers, "tiny")


def check(config: dict[str, Any], sequence_parallel: bool = True, layer_count: int = 2) -> None:
    file = plan_file(config, plan((layers(layer_count),), tp=2, sequence_parallel=sequence_parallel))
    check_tensor_parallel(file, read_skeleton(file))


@pytest.mark.parametrize(
    ("family", "region", "expected", "derived"),
    [
        ("llama", "mlp", {"mlp.gate_proj": "column", "mlp.up_proj": "column", "mlp.down_proj": "row"}, False),
        ("phi3", "self_attn", {"self_attn.qkv_proj": "column", "self_attn.o_proj": "row"}, True),
        ("glm4", "mlp", {"mlp.gate_up_proj": "column", "mlp.down_proj": "row"}, True),
        ("gpt2", "attn", {"attn.c_attn": "column", "attn.c_proj": "row"}, True),
        ("olmo2", "self_attn", {"self_attn.q_norm": "whole_norm", "self_attn.v_proj": "column"}, True),
        ("qwen3", "self_attn", {"self_attn.q_norm": "by_head", "self_attn.o_proj": "row"}, False),
        ("mixtral", "mlp", {"mlp.experts": "experts", "mlp.experts.gate_up_proj": "packed"}, False),
        ("gpt_oss", "mlp", {"mlp.experts": "experts", "mlp.experts.down_proj_bias": "once"}, True),
        ("gpt_oss", "self_attn", {"self_attn.sinks": "row"}, True),
        ("deepseek_v3", "self_attn", {"self_attn.kv_a_proj_with_mqa": "latent", "self_attn.q_b_proj": "column"}, True),
        ("deepseek_v2", "self_attn", {"self_attn.kv_a_proj_with_mqa": "latent"}, False),
    ],
)
def test_roles_of_a_region(family: str, region: str, expected: dict[str, str], derived: bool) -> None:
    found = division(FAMILIES[family]).regions[region]
    assert expected.items() <= found.roles.items()
    assert found.derived == derived


@pytest.mark.parametrize(
    ("family", "region", "shares"),
    [
        ("llama", "self_attn", True),
        ("olmo2", "self_attn", True),
        ("mixtral", "mlp", False),
        ("deepseek_v2", "self_attn", False),
    ],
)
def test_a_region_shares_its_input_where_every_use_of_it_is_divided(family: str, region: str, shares: bool) -> None:
    assert division(FAMILIES[family]).regions[region].shares_input == shares


@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_a_residual_added_within_attention_is_refused_by_the_name_of_the_module(sequence_parallel: bool) -> None:
    """BLOOM adds the residual in its attention, which two ranks would add twice."""
    with pytest.raises(
        SpecError, match=r"tiny-bloom: 'transformer\.h\.\*\.self_attention' of Bloom.* cannot be divided"
    ) as caught:
        check(BLOOM, sequence_parallel)
    assert "\n" not in str(caught.value)


def test_a_wrong_rule_is_seen_on_the_tiny_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Biases of the experts' last projection that every rank adds."""
    check(FAMILIES["gpt_oss"])
    wrong = {**rules._BIASED_EXPERTS, "down_proj_bias": "replicated"}
    monkeypatch.setattr(rules, "_BIASED_EXPERTS", wrong)
    with pytest.raises(
        SpecError, match=r"'model\.layers\.\*\.mlp' of GptOssForCausalLM cannot be divided over tp \(its result is"
    ):
        check(FAMILIES["gpt_oss"])


def test_a_router_that_draws_lots_is_refused() -> None:
    config = FAMILIES["mixtral"] | {"model_type": "phimoe", "intermediate_size": 16}
    with pytest.raises(SpecError, match="tiny-phimoe: PhimoeForCausalLM draws random numbers as it trains"):
        check(config)


def test_a_width_that_tp_does_not_divide_is_named() -> None:
    config = FAMILIES["qwen2_moe"] | {"shared_expert_intermediate_size": 25}
    with pytest.raises(
        SpecError, match=r"'mlp\.shared_expert\.gate_proj\.weight' of a layer has 25 columns, which tp 2"
    ):
        check(config)


@pytest.mark.parametrize(
    "preset", ["phi-2", "falcon-40b", "pythia-12b", "gpt-oss-120b", "kimi-k2", "gemma-2-27b", "phi-4"]
)
def test_a_preset_of_real_size_passes(preset: str) -> None:
    """The tiny model keeps the flags of the large one: parts of heads that are rotated, groups of keys, kinds of layers."""
    model = load_model(preset)
    check(model.config, layer_count=model.layer_count)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_passes(family: str) -> None:
    check(FAMILIES[family])
