"""Configurations read as data: the odd ones counted as transformers builds them."""

import itertools
from typing import Any

import pytest
import transformers

from shardwright.catalog.huggingface.families import supported_model_types
from shardwright.catalog.huggingface.load import load_model
from shardwright.specs.model.feed_forward import FeedForward, MixtureOfExperts
from tests.catalog.huggingface.meta_model import assert_same_shape, build_on_meta, count_parameters
from tests.catalog.huggingface.small_configs import (
    LLAMA,
    LONGCAT,
    MAMBA,
    NEMOTRON,
    SMALL,
    SMALL_LATENT,
    SMALL_MOE,
    SMALL_OPT,
    read,
)

# What each odd one has that no preset has.
ODD: dict[str, dict[str, Any]] = {
    "llama with every bias": SMALL | {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama tied, with wide heads": SMALL | {"model_type": "llama", "tie_word_embeddings": True, "head_dim": 32},
    "llama without kv heads": SMALL | {"model_type": "llama", "num_key_value_heads": None},
    "llama in new spelling": SMALL
    | {"model_type": "llama", "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "dtype": "bfloat16"},
    "mistral with a head size": SMALL | {"model_type": "mistral", "head_dim": 24, "sliding_window": 7},
    "qwen2 whose last layer slides": SMALL
    | {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 2},
    "qwen2 with layer types": SMALL
    | {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 9,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "qwen3 with biases": SMALL | {"model_type": "qwen3", "attention_bias": True, "tie_word_embeddings": True},
    "qwen3 whose last layer slides": SMALL
    | {"model_type": "qwen3", "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 2},
    "qwen2_moe, every second layer sparse": SMALL_MOE
    | {"model_type": "qwen2_moe", "decoder_sparse_step": 2, "shared_expert_intermediate_size": 40, "qkv_bias": False},
    "qwen2_moe, layer 1 dense": SMALL_MOE
    | {"model_type": "qwen2_moe", "mlp_only_layers": [1], "shared_expert_intermediate_size": 40},
    "qwen2_moe that slides": SMALL_MOE
    | {"model_type": "qwen2_moe", "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 2},
    "qwen3_moe with biases, dense and sliding layers": SMALL_MOE
    | {
        "model_type": "qwen3_moe",
        "attention_bias": True,
        "mlp_only_layers": [0],
        "use_sliding_window": True,
        "sliding_window": 9,
    },
    "mixtral that slides": SMALL | {"model_type": "mixtral", "num_local_experts": 3, "sliding_window": 5},
    "mixtral in new spelling": SMALL | {"model_type": "mixtral", "num_experts": 3},
    "gpt_oss without biases": SMALL
    | {"model_type": "gpt_oss", "num_local_experts": 4, "attention_bias": False, "head_dim": 16},
    "gpt_oss with layer types": SMALL
    | {
        "model_type": "gpt_oss",
        "num_local_experts": 4,
        "layer_types": ["full_attention", "full_attention", "sliding_attention"],
    },
    "deepseek_v2 with biases and a dense layer": SMALL_LATENT
    | {"model_type": "deepseek_v2", "attention_bias": True, "mlp_bias": True, "first_k_dense_replace": 1},
    "deepseek_v3 without a query latent": SMALL_LATENT
    | {"model_type": "deepseek_v3", "q_lora_rank": None, "attention_bias": True, "first_k_dense_replace": 2},
    "deepseek_v3 with three shared experts": SMALL_LATENT
    | {"model_type": "deepseek_v3", "n_shared_experts": 3, "first_k_dense_replace": 0},
    "gpt2 untied, narrow, in new spelling": {
        "model_type": "gpt2",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 32,
        "n_inner": 96,
        "tie_word_embeddings": False,
    },
    "gpt_neox without attention biases": SMALL
    | {"model_type": "gpt_neox", "attention_bias": False, "use_parallel_residual": False, "tie_word_embeddings": True},
    "opt without biases or norm weights": SMALL_OPT
    | {"hidden_size": 64, "enable_bias": False, "layer_norm_elementwise_affine": False},
    "opt that normalises after": SMALL_OPT | {"hidden_size": 64, "do_layer_norm_before": False},
    "opt without its final norm": SMALL_OPT | {"hidden_size": 64, "_remove_final_layer_norm": True},
    "opt untied, with a narrow embedding": SMALL_OPT
    | {"hidden_size": 64, "word_embed_proj_dim": 16, "tie_word_embeddings": False, "max_position_embeddings": 32},
    "bloom by its oldest spelling": {"model_type": "bloom", "n_embed": 64, "n_layer": 2, "num_attention_heads": 4},
    "mpt untied": {"model_type": "mpt", "d_model": 64, "n_heads": 4, "n_layers": 2, "tie_word_embeddings": False},
    "falcon untied, with a narrow feed-forward": {
        "model_type": "falcon",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_hidden_size": 96,
        "tie_word_embeddings": False,
    },
    "gemma with biases, untied": SMALL | {"model_type": "gemma", "attention_bias": True, "tie_word_embeddings": False},
    "gemma2 with layer types": SMALL
    | {"model_type": "gemma2", "layer_types": ["full_attention", "sliding_attention", "full_attention"]},
    "gemma3 that slides but for every second layer": SMALL
    | {"model_type": "gemma3_text", "sliding_window_pattern": 2, "sliding_window": 9, "attention_bias": True},
    "cohere with biases and norms of each head": SMALL
    | {"model_type": "cohere", "attention_bias": True, "use_qk_norm": True},
    "cohere2, untied": SMALL | {"model_type": "cohere2", "sliding_window": 9, "tie_word_embeddings": False},
    "olmo2 with biases and groups": SMALL | {"model_type": "olmo2", "attention_bias": True},
    "olmo3 with layer types": SMALL
    | {"model_type": "olmo3", "layer_types": ["full_attention", "sliding_attention", "full_attention"]},
    "glm4 without biases": SMALL | {"model_type": "glm4", "attention_bias": False, "head_dim": 24},
    "smollm3 with every bias": SMALL | {"model_type": "smollm3", "attention_bias": True, "mlp_bias": True},
    "smollm3 that slides where it does not rotate": SMALL
    | {"model_type": "smollm3", "use_sliding_window": True, "sliding_window": 9, "no_rope_layers": [1, 0, 1]},
    "granite with every bias, tied": SMALL
    | {"model_type": "granite", "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    "seed_oss with every bias": SMALL | {"model_type": "seed_oss", "attention_out_bias": True, "mlp_bias": True},
    "ernie4_5 with biases": SMALL | {"model_type": "ernie4_5", "use_bias": True},
    "ernie4_5_moe with biases, every second layer sparse": SMALL
    | {"model_type": "ernie4_5_moe", "use_bias": True, "moe_num_experts": 4, "moe_k": 2, "moe_layer_interval": 2},
    "ernie4_5_moe with a last sparse layer": SMALL
    | {"model_type": "ernie4_5_moe", "moe_num_experts": 4, "moe_k": 2, "moe_layer_end_index": 1},
    "olmoe with biases": SMALL_MOE | {"model_type": "olmoe", "attention_bias": True},
    "granitemoe with biases": SMALL | {"model_type": "granitemoe", "attention_bias": True, "num_local_experts": 4},
    "phimoe with every bias": SMALL
    | {"model_type": "phimoe", "attention_bias": True, "lm_head_bias": True, "sliding_window": 5},
    "longcat_flash with biases, without zero experts": LONGCAT
    | {"attention_bias": True, "router_bias": True, "zero_expert_num": 0, "num_attention_heads": 8},
    "minimax_m2": SMALL | {"model_type": "minimax_m2", "num_local_experts": 4, "num_experts_per_tok": 2},
    "glm4_moe with norms": SMALL
    | {
        "model_type": "glm4_moe",
        "n_routed_experts": 4,
        "moe_intermediate_size": 32,
        "num_experts_per_tok": 2,
        "use_qk_norm": True,
        "attention_bias": True,
        "head_dim": 24,
    },
    "llama4, every second layer sparse": SMALL
    | {"model_type": "llama4_text", "interleave_moe_layer_step": 2, "num_local_experts": 4, "attention_chunk_size": 9},
    "llama4 with listed layers": SMALL
    | {"model_type": "llama4_text", "moe_layers": [0], "no_rope_layers": [1, 0, 1], "attention_bias": True},
    "qwen3_next": SMALL_MOE
    | {
        "model_type": "qwen3_next",
        "head_dim": 24,
        "linear_num_value_heads": 6,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 12,
        "full_attention_interval": 2,
        "shared_expert_intermediate_size": 40,
    },
    "qwen3_next with layer types, a dense layer and biases": SMALL_MOE
    | {
        "model_type": "qwen3_next",
        "layer_types": ["full_attention", "linear_attention", "full_attention"],
        "mlp_only_layers": [1],
        "attention_bias": True,
    },
    "nemotron_h with biases, by words": NEMOTRON
    | {
        "layers_block_type": ["mamba", "attention", "moe", "mlp"],
        "use_bias": True,
        "mlp_bias": True,
        "use_conv_bias": False,
    },
    "nemotron_h by a pattern": NEMOTRON | {"hybrid_override_pattern": "M-ME*-"},
    "bamba with every bias": SMALL
    | MAMBA
    | {
        "model_type": "bamba",
        "mamba_proj_bias": True,
        "attention_bias": True,
        "mlp_bias": True,
        "attn_layer_indices": [1],
    },
    "granitemoehybrid": SMALL
    | MAMBA
    | {"model_type": "granitemoehybrid", "layer_types": ["mamba", "attention", "mamba"], "num_local_experts": 4},
    "granitemoehybrid without experts": SMALL
    | MAMBA
    | {"model_type": "granitemoehybrid", "num_local_experts": 0, "attention_bias": True, "mamba_conv_bias": False},
    "minimax": SMALL | {"model_type": "minimax", "num_local_experts": 4, "head_dim": 24},
    "phi3 that slides": SMALL | {"model_type": "phi3", "sliding_window": 5, "tie_word_embeddings": True},
    "phi with normalised queries": SMALL | {"model_type": "phi", "qk_layernorm": True},
}


@pytest.mark.parametrize("config", ODD.values(), ids=ODD)
def test_odd_model_has_the_shape_that_transformers_builds(config: dict[str, Any]) -> None:
    assert_same_shape(read(config), config)


FALCON_FLAGS = ("new_decoder_architecture", "multi_query", "parallel_attn", "bias", "alibi")


@pytest.mark.parametrize("flags", list(itertools.product((False, True), repeat=len(FALCON_FLAGS))))
@pytest.mark.parametrize("norms", [None, 1, 2])
def test_every_variant_of_falcon_has_the_shape_that_transformers_builds(
    flags: tuple[bool, ...], norms: int | None
) -> None:
    config = {
        "model_type": "falcon",
        "hidden_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 8,
        "num_kv_heads": 2,
        "num_ln_in_parallel_attn": norms,
        "vocab_size": 128,
        **dict(zip(FALCON_FLAGS, flags, strict=True)),
    }
    assert_same_shape(read(config), config)


# A hidden size that the family's default number of heads divides.
DEFAULT_HIDDEN = {
    "ernie4_5_moe": 2560,
    "glm4_moe": 3072,
    "falcon": 4544,
    "gpt_neox": 6144,
    "gpt_oss": 2880,
    "opt": 768,
    "gpt2": 768,
    "bloom": 64,
}
HIDDEN_KEYS = {
    "gpt2": ("n_embd", "n_layer"),
    "mpt": ("d_model", "n_layers"),
    "bloom": ("hidden_size", "n_layer"),
    "longcat_flash": ("hidden_size", "num_layers"),
}


@pytest.mark.parametrize("family", [family for family in supported_model_types() if family not in ("gemma3", "llama4")])
def test_missing_keys_take_the_defaults_of_transformers(family: str) -> None:
    hidden_key, layers_key = HIDDEN_KEYS.get(family, ("hidden_size", "num_hidden_layers"))
    config = {"model_type": family, hidden_key: DEFAULT_HIDDEN.get(family, 2048), layers_key: 7}
    if family == "deepseek_v2":
        config["num_experts_per_tok"] = 6  # its default is null, with which nothing runs
    spec = read(config)
    assert_same_shape(spec, spec.config)


@pytest.mark.parametrize(
    "family",
    [
        "mixtral",
        "qwen2_moe",
        "qwen3_moe",
        "qwen3_next",
        "gpt_oss",
        "deepseek_v3",
        "olmoe",
        "granitemoe",
        "minimax_m2",
        "glm4_moe",
    ],
)
def test_top_k_takes_the_default_of_transformers(family: str) -> None:
    config = SMALL | {"model_type": family, "num_hidden_layers": 4}
    ffn = read(config).layer_classes[-1].ffn
    assert isinstance(ffn, MixtureOfExperts)
    assert ffn.top_k == transformers.AutoConfig.for_model(family).num_experts_per_tok


def test_gemma3_gives_its_text_part_and_says_so() -> None:
    text = {key: value for key, value in SMALL.items() if key != "vocab_size"} | {"num_hidden_layers": 7}
    config = {"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 32}}
    spec = read(config)
    assert spec.name == "a model (text part)"
    assert spec.family == "gemma3_text"
    assert spec.vocab_size == 262208
    assert_same_shape(spec, spec.config)


def test_text_part_of_another_multimodal_model_is_read_by_its_own_type() -> None:
    text = SMALL | {"model_type": "mistral"}
    spec = read({"model_type": "mistral3", "text_config": text})
    assert spec.config == text
    assert spec.parameter_count == count_parameters(build_on_meta(text))


TEXT = {"model_type": "qwen2"} | SMALL


@pytest.mark.parametrize("whole", ["internvl", "mistral3", "llava", "llava_next", "llava_onevision"])
@pytest.mark.parametrize("top", [True, False])
@pytest.mark.parametrize("text", [True, False, None])
def test_the_head_of_a_multimodal_model_is_tied_as_transformers_ties_it(
    whole: str, top: bool, text: bool | None
) -> None:
    inner = TEXT if text is None else TEXT | {"tie_word_embeddings": text}
    config = {"model_type": whole, "tie_word_embeddings": top, "text_config": inner}
    built = transformers.AutoConfig.for_model(whole, tie_word_embeddings=top, text_config=dict(inner))
    spec = read(config)
    assert spec.tied_embeddings is built.tie_word_embeddings
    assert spec.parameter_count == count_parameters(build_on_meta(spec.config))


def test_a_multimodal_file_that_says_nothing_of_its_head_leaves_it_to_the_text_part() -> None:
    for tied in (True, False):
        assert (
            read({"model_type": "internvl", "text_config": TEXT | {"tie_word_embeddings": tied}}).tied_embeddings
            is tied
        )


def test_the_class_of_a_text_part_makes_no_difference() -> None:
    config = {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"]}
    assert read(config | {"text_config": TEXT | {"architectures": ["Qwen2Model"]}}).vocab_size == 128


def test_kimi_k2_is_a_deepseek_v3() -> None:
    kimi = load_model("kimi-k2").config | {"model_type": "kimi_k2"}
    spec = read(kimi)
    assert spec.family == "deepseek_v3"
    assert spec.parameter_count == load_model("kimi-k2").parameter_count
    text = read({"model_type": "kimi_k25", "text_config": kimi, "tie_word_embeddings": False})
    assert text.parameter_count == spec.parameter_count


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("family", ["deepseek_v2", "deepseek_v3"])
def test_null_of_deepseek_means_that_a_part_is_absent(family: str) -> None:
    config = SMALL_LATENT | {"model_type": family, "first_k_dense_replace": 1}
    unshared = config | {"n_shared_experts": 0}
    assert_same_shape(read(config | {"n_shared_experts": None}), unshared)
    dense = config | {"first_k_dense_replace": SMALL_LATENT["num_hidden_layers"]}
    assert_same_shape(read(config | {"n_routed_experts": None, "num_experts_per_tok": None}), dense)
    assert read(config | {"n_routed_experts": None, "num_experts": 4}).parameter_count == read(config).parameter_count


@pytest.mark.parametrize(
    "config",
    [
        SMALL | {"model_type": "llama", "num_local_experts": 1, "is_causal": True, "draft_vocab_size": None},
        SMALL | {"model_type": "llama", "architectures": None, "add_cross_attention": False, "num_experts": 0},
        SMALL | {"model_type": "llama", "architectures": ["LLaMAForCausalLM"], "layer_types": ["full_attention"] * 3},
        SMALL | {"model_type": "mixtral", "num_local_experts": 3, "num_experts": 3},
    ],
)
def test_keys_that_add_nothing_are_accepted(config: dict[str, Any]) -> None:
    assert read(config).layer_count == 3


@pytest.mark.parametrize(
    ("config", "parallel"),
    [
        (SMALL | {"model_type": "llama"}, False),
        (SMALL | {"model_type": "phi"}, True),
        (SMALL | {"model_type": "gpt_neox"}, True),
        (SMALL | {"model_type": "gpt_neox", "use_parallel_residual": False}, False),
        (SMALL | {"model_type": "falcon"}, True),
        (SMALL | {"model_type": "falcon", "parallel_attn": False}, False),
        (SMALL | {"model_type": "falcon", "parallel_attn": False, "new_decoder_architecture": True}, True),
    ],
)
def test_attention_and_feed_forward_side_by_side(config: dict[str, Any], parallel: bool) -> None:
    assert read(config).layer_classes[0].parallel is parallel


def test_a_key_of_this_project_makes_ladders_of_the_residuals_of_any_family() -> None:
    for config in (LLAMA, LONGCAT):
        plain, ladder = read(config), read(config | {"ladder_residual": True})
        assert [block.ladder for block in (*plain.layer_classes, *ladder.layer_classes)] == [False, True]
        assert ladder.parameter_count == plain.parameter_count


def test_longcat_counts_its_halves_where_hidden_layers_are_given() -> None:
    halves = {key: value for key, value in LONGCAT.items() if key != "num_layers"} | {"num_hidden_layers": 6}
    assert read(halves).blocks == read(LONGCAT).blocks
    assert_same_shape(read(halves), halves)


def test_zero_experts_are_allocated_by_transformers_and_not_counted() -> None:
    """Two of hidden size 64 and width 32: their gates and ups are allocated, three layers."""
    spec = read(LONGCAT)
    assert spec.idle_parameter_count == 3 * 2 * 2 * 32 * 64
    assert_same_shape(spec, LONGCAT)


def test_windows_make_different_blocks_and_runs() -> None:
    spec = read(SMALL | {"model_type": "gemma3_text", "num_hidden_layers": 13, "sliding_window": 512})
    assert [(run.count, run.block.attention.window) for run in spec.blocks] == [
        (5, 512),
        (1, None),
        (5, 512),
        (1, None),
        (1, 512),
    ]
    assert len(spec.layer_classes) == 2


@pytest.mark.parametrize(("preset", "positions"), [("gpt2-124m", 1024), ("opt-1.3b", 2048), ("llama-2-7b", 0)])
def test_learned_positions_reach_as_far_as_the_model_can_be_trained(preset: str, positions: int) -> None:
    assert load_model(preset).positions == positions


def test_a_window_that_is_switched_off_makes_no_difference() -> None:
    spec = read(SMALL | {"model_type": "qwen2", "sliding_window": 9, "max_window_layers": 0})
    assert len(spec.blocks) == 1
    assert spec.blocks[0].block.attention.window is None


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "qwen2_moe", "qwen3_moe"])
@pytest.mark.parametrize("window", [0, None])
def test_what_stands_for_no_window_where_it_is_switched_off_is_accepted(family: str, window: int | None) -> None:
    config = SMALL_MOE | {"model_type": family, "use_sliding_window": False, "sliding_window": window}
    if family in ("qwen2", "qwen3"):
        config = {key: value for key, value in config.items() if key != "num_experts"}
    assert {block.attention.window for block in read(config).layer_classes} == {None}


def test_dense_layers_before_sparse_ones_are_a_run_of_their_own() -> None:
    spec = read(SMALL_LATENT | {"model_type": "deepseek_v3", "num_hidden_layers": 5, "first_k_dense_replace": 2})
    assert [run.count for run in spec.blocks] == [2, 3]
    assert [type(run.block.ffn) for run in spec.blocks] == [FeedForward, MixtureOfExperts]


def test_the_configuration_is_kept_as_it_was() -> None:
    config = SMALL | {"model_type": "llama", "quantization_config": {"quant_method": "fp8"}, "some_new_key": [1]}
    assert read(config).config == config


def test_the_configuration_kept_is_a_copy_all_the_way_down() -> None:
    """Configuration classes of transformers edit nested dictionaries in place."""
    config: dict[str, Any] = SMALL | {"model_type": "llama", "rope_scaling": {"factor": 8.0}}
    spec = read(config)
    config["rope_scaling"]["factor"] = 2.0
    assert spec.config["rope_scaling"] == {"factor": 8.0}
