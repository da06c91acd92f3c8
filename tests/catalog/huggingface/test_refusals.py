"""Bad configurations: each refused in one line that names the file, the key, what was given and what is allowed."""

import json
from typing import Any

import pytest

from shardwright.base.errors import SpecError
from tests.catalog.huggingface.small_configs import LLAMA, LONGCAT, SMALL, SMALL_LATENT, SMALL_MOE, read

BAD: dict[str, tuple[Any, str]] = {
    "no object": ([1], "holds a list"),
    "null": (None, "holds null"),
    "no model_type": (SMALL, "key 'model_type' is missing"),
    "model_type no word": (SMALL | {"model_type": ["llama"]}, "'model_type' is ['llama']"),
    "model_type misspelled": (SMALL | {"model_type": "lama"}, "supported: deepseek_v3, gemma3"),
    "model_type unknown": (SMALL | {"model_type": "resnet"}, "supported: deepseek_v3, gemma3"),
    "hidden_size missing": ({"model_type": "llama", "num_hidden_layers": 2}, "key 'hidden_size' is missing"),
    "hidden_size misspelled": ({"model_type": "llama", "hidden_sise": 64}, "is 'hidden_sise' a misspelling of it?"),
    "hidden_size null": (LLAMA | {"hidden_size": None}, "'hidden_size' is null: give it as a whole number"),
    "layers null in a later spelling": (
        {"model_type": "gpt2", "n_embd": 64, "num_hidden_layers": None},
        "'num_hidden_layers' is null: give it as a whole number from 1",
    ),
    "layers missing": ({"model_type": "llama", "hidden_size": 64}, "key 'num_hidden_layers' is missing"),
    "zero": (LLAMA | {"vocab_size": 0}, "'vocab_size' is 0: must be a whole number from 1"),
    "negative": (LLAMA | {"intermediate_size": -96}, "'intermediate_size' is -96: must be a whole number from 1"),
    "not a number": (LLAMA | {"hidden_size": float("nan")}, "'hidden_size' is NaN: must be a whole number"),
    "infinite": (LLAMA | {"hidden_size": float("inf")}, "'hidden_size' is Infinity: must be a whole number"),
    "fraction": (LLAMA | {"num_hidden_layers": 2.5}, "'num_hidden_layers' is 2.5: must be a whole number"),
    "text for a number": (LLAMA | {"hidden_size": "64"}, "'hidden_size' is \"64\": must be a whole number"),
    "true for a number": (LLAMA | {"num_hidden_layers": True}, "'num_hidden_layers' is true: must be a whole"),
    "deeply nested for a number": (
        LLAMA | {"hidden_size": json.loads("[" * 900 + "]" * 900)},
        "must be a whole number",
    ),
    "deeply nested": (LLAMA | {"unknown": json.loads("[" * 900 + "]" * 900)}, "nested too deep"),
    "long text for a number": (LLAMA | {"hidden_size": "6" * 999}, f"'hidden_size' is \"{'6' * 56}...: must be"),
    "null where a number must be": (LLAMA | {"vocab_size": None}, "'vocab_size' is null"),
    "a billion layers": (LLAMA | {"num_hidden_layers": 10**9}, "must be a whole number from 1 to 10000"),
    "text for true or false": (LLAMA | {"tie_word_embeddings": "no"}, "'tie_word_embeddings' is \"no\": must be true"),
    "heads don't divide": (LLAMA | {"num_attention_heads": 6}, "64 must be a multiple of the 6 attention heads"),
    "heads don't divide, though given a size": (
        LLAMA | {"num_attention_heads": 6, "head_dim": 16},
        "64 must be a multiple of the 6 attention heads",
    ),
    "heads don't divide in gpt2": (
        {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 5},
        "of the 5 attention",
    ),
    "kv heads don't divide": (LLAMA | {"num_key_value_heads": 3}, "num_key_value_heads 3 must divide"),
    "kv heads don't divide in falcon": (
        SMALL | {"model_type": "falcon", "new_decoder_architecture": True, "num_kv_heads": 3},
        "num_kv_heads 3 must divide num_attention_heads 4",
    ),
    "more experts chosen than there are": (
        SMALL | {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 5},
        "num_experts_per_tok 5 is more than the 4 experts",
    ),
    "chosen experts missing": (SMALL | {"model_type": "deepseek_v2"}, "key 'num_experts_per_tok' is missing"),
    "chosen experts null": (
        SMALL_LATENT | {"model_type": "deepseek_v2", "num_experts_per_tok": None},
        "'num_experts_per_tok' is null: give it as a whole number from 1",
    ),
    "experts null where transformers wants a number": (
        SMALL_MOE | {"model_type": "qwen3_moe", "num_experts": None},
        "'num_experts' is null: give it as a whole number from 1",
    ),
    "experts null in a later spelling": (
        SMALL_LATENT | {"model_type": "deepseek_v3", "n_routed_experts": None, "num_experts": 4, "moe_layer_freq": 2},
        "'moe_layer_freq' is 2",
    ),
    "two spellings that differ": (
        {"model_type": "gpt2", "n_embd": 64, "hidden_size": 32, "n_layer": 1},
        "'n_embd' is 64 and 'hidden_size' is 32",
    ),
    "layer types of another length": (
        SMALL | {"model_type": "gemma2", "layer_types": ["full_attention"]},
        "'layer_types' names 1 layers; num_hidden_layers is 3",
    ),
    "layer type unknown": (
        SMALL | {"model_type": "gemma2", "layer_types": ["full_attention", "linear_attention", "full_attention"]},
        "'layer_types' holds 'linear_attention'; supported",
    ),
    "layer types no list": (SMALL | {"model_type": "gemma2", "layer_types": "full"}, "must be a list of words"),
    "layer types no words": (SMALL | {"model_type": "gemma2", "layer_types": [1, 2, 3]}, "must be a list of words"),
    "dense layers no indices": (SMALL_MOE | {"model_type": "qwen3_moe", "mlp_only_layers": ["1"]}, "layer indices"),
    "single layers overridden": (LLAMA | {"per_layer_config": {"1": {}}}, "'per_layer_config' overrides"),
    "bidirectional": (SMALL | {"model_type": "gemma3_text", "use_bidirectional_attention": True}, "only causal"),
    "bidirectional gemma": (SMALL | {"model_type": "gemma", "use_bidirectional_attention": True}, "only causal"),
    "cross attention": (SMALL | {"model_type": "gpt2", "add_cross_attention": True}, "without an encoder"),
    "mpt that transformers doesn't build": (
        {"model_type": "mpt", "d_model": 64, "n_layers": 2, "n_heads": 4, "expansion_ratio": 2},
        "'expansion_ratio' is 2: transformers builds this family with 4 only",
    ),
    "mpt attention that transformers doesn't build": (
        {"model_type": "mpt", "d_model": 64, "n_layers": 2, "attn_config": {"attn_type": "multiquery_attention"}},
        "attn_config: 'attn_type' is \"multiquery_attention\"",
    ),
    "mpt attention no object": ({"model_type": "mpt", "d_model": 64, "attn_config": 3}, "'attn_config' is 3"),
    "experts in every second deepseek layer": (
        SMALL_LATENT | {"model_type": "deepseek_v3", "moe_layer_freq": 2},
        "'moe_layer_freq' is 2",
    ),
    "half a layer of longcat": (
        {key: value for key, value in LONGCAT.items() if key != "num_layers"} | {"num_hidden_layers": 5},
        "'num_hidden_layers' is 5: a layer has two halves; give 'num_layers', or an even number",
    ),
    "zero experts that drop": (LONGCAT | {"zero_expert_type": "drop"}, "'zero_expert_type' is \"drop\""),
    "experts in a dense family": (
        LLAMA | {"num_local_experts": 8, "num_experts_per_tok": 2},
        "'num_local_experts' is 8: model_type 'llama' has no experts; give the model's own model_type",
    ),
    "experts in a dense family, as the misleading hint left them": (
        SMALL | {"model_type": "phi", "num_local_experts": 16},
        "model_type 'phi' has no experts",
    ),
    "experts in the spelling of another family": (
        SMALL | {"model_type": "mixtral", "n_routed_experts": 8},
        "'n_routed_experts' is 8",
    ),
    "latent attention in a family of plain heads": (LLAMA | {"kv_lora_rank": 512}, "has no latent attention"),
    "an indexer": (SMALL_LATENT | {"model_type": "deepseek_v3", "index_topk": 2048}, "has no sparse attention"),
    "recurrent layers": (LLAMA | {"mamba_d_state": 16}, "has no recurrent layers"),
    "layers of many shapes": (LLAMA | {"block_configs": [{}]}, "has no layers of many shapes"),
    "linear attention": (LLAMA | {"layer_types": ["linear_attention"] * 3}, "'layer_types' holds 'linear_attention'"),
    "an unknown letter in a pattern of layers": (
        SMALL | {"model_type": "nemotron_h", "hybrid_override_pattern": "M-X"},
        "'hybrid_override_pattern' holds 'X'; supported: M (Mamba-2)",
    ),
    "an unknown kind of layer": (
        SMALL | {"model_type": "nemotron_h", "layers_block_type": ["mamba", "sliding_attention"]},
        "'layers_block_type' holds 'sliding_attention'; supported: 'linear_attention'",
    ),
    "experts behind a latent": (
        SMALL | {"model_type": "nemotron_h", "moe_latent_size": 32},
        "'moe_latent_size' is 32: experts behind a latent are not supported",
    ),
    "heads of mamba that are not as wide as they should be": (
        SMALL | {"model_type": "bamba", "mamba_n_heads": 8, "mamba_d_head": 24},
        "mamba_n_heads 8 of 24 are not as wide together as mamba_expand x hidden_size, 128",
    ),
    "groups of mamba that do not divide its heads": (
        SMALL | {"model_type": "bamba", "mamba_n_heads": 8, "mamba_n_groups": 3},
        "heads 8 must be a multiple of key_heads 3",
    ),
    "layer types of minimax": (
        SMALL | {"model_type": "minimax", "layer_types": ["linear_attention"]},
        "'layer_types' names 1 layers; num_hidden_layers is 3",
    ),
    "a draft's vocabulary": (LLAMA | {"draft_vocab_size": 32}, "draft models of speculative decoding"),
    "not causal": (LLAMA | {"is_causal": False}, "'is_causal' is false: only causal decoders"),
    "an encoder in any family": (LLAMA | {"is_encoder_decoder": True}, "without an encoder"),
    "no text part": ({"model_type": "gemma3"}, "key 'text_config' is missing"),
    "text part unknown": (
        {"model_type": "mllama", "text_config": {"model_type": "mllama_text_model"}},
        "text_config: of the multimodal model_type 'mllama', model_type 'mllama_text_model' is not supported",
    ),
    "bad number in the text part": (
        {"model_type": "gemma3", "text_config": SMALL | {"hidden_size": 0}},
        "text_config: 'hidden_size' is 0",
    ),
}


@pytest.mark.parametrize(("config", "part"), BAD.values(), ids=BAD)
def test_bad_configuration_is_refused_in_one_line(config: Any, part: str) -> None:
    with pytest.raises(SpecError) as refusal:
        read(config)
    message = str(refusal.value)
    assert message.startswith("config.json: ")
    assert part in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "name",
    [
        "LlamaForSequenceClassification",
        "LlamaForTokenClassification",
        "LlamaForCausalLMEagle3",
        "Eagle3LlamaForCausalLM",
        "LlamaModel",
        "MixtralForCausalLM",
    ],
)
def test_a_class_that_is_not_the_causal_language_model_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match=f"'architectures' holds '{name}'; supported: LlamaForCausalLM") as refusal:
        read(LLAMA | {"architectures": [name]})
    assert "\n" not in str(refusal.value)


def test_a_multimodal_class_without_a_language_head_is_refused() -> None:
    config = {"model_type": "mistral3", "architectures": ["Mistral3ForSequenceClassification"], "text_config": LLAMA}
    with pytest.raises(SpecError, match=r"supported of a multimodal model: the text part of a class \.\.\.ForCond"):
        read(config)


@pytest.mark.parametrize(
    "model_type",
    [
        "mamba",
        "jamba",
        "zamba2",
        "deepseek_v32",
        "mllama",
        "aria",
        "glm4v_moe",
        "lama",
    ],
)
def test_no_other_architecture_is_named_for_an_unknown_one(model_type: str) -> None:
    with pytest.raises(SpecError, match="is not supported; supported: deepseek_v3, ") as refusal:
        read(SMALL | {"model_type": model_type})
    assert "Did you mean" not in str(refusal.value)


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "vocab_size", "num_attention_heads"])
def test_no_value_is_advised_for_null_and_no_key_is_a_misspelling_of_itself(key: str) -> None:
    with pytest.raises(SpecError, match=f"'{key}' is null") as refusal:
        read(LLAMA | {key: None})
    assert "leave it out" not in str(refusal.value)
    assert "misspelling" not in str(refusal.value)
