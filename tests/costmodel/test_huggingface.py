"""Configurations read as data: the odd ones counted as transformers builds them, the bad ones refused in one line."""

import itertools
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import transformers

from shardwright.costmodel.errors import SpecError
from shardwright.costmodel.huggingface import load_model, model_from_config, preset_names, supported_model_types
from shardwright.costmodel.model import FeedForward, MixtureOfExperts, ModelSpec
from tests.costmodel.meta_model import assert_same_shape, build_on_meta, count_parameters

SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 128,
    "pad_token_id": None,
}
SMALL_MOE = SMALL | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
SMALL_OPT = {"model_type": "opt", "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 96, "vocab_size": 128}
SMALL_LATENT = SMALL | {
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_routed_experts": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 12,
    "n_group": 1,
    "topk_group": 1,
}

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
    "phi3 that slides": SMALL | {"model_type": "phi3", "sliding_window": 5, "tie_word_embeddings": True},
    "phi with normalised queries": SMALL | {"model_type": "phi", "qk_layernorm": True},
}


def read(config: Mapping[str, Any]) -> ModelSpec:
    return model_from_config(config, name="a model", source="config.json")


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
DEFAULT_HIDDEN = {"falcon": 4544, "gpt_neox": 6144, "gpt_oss": 2880, "opt": 768, "gpt2": 768, "bloom": 64}
HIDDEN_KEYS = {"gpt2": ("n_embd", "n_layer"), "mpt": ("d_model", "n_layers"), "bloom": ("hidden_size", "n_layer")}


@pytest.mark.parametrize("family", [family for family in supported_model_types() if family != "gemma3"])
def test_missing_keys_take_the_defaults_of_transformers(family: str) -> None:
    hidden_key, layers_key = HIDDEN_KEYS.get(family, ("hidden_size", "num_hidden_layers"))
    config = {"model_type": family, hidden_key: DEFAULT_HIDDEN.get(family, 2048), layers_key: 7}
    if family == "deepseek_v2":
        config["num_experts_per_tok"] = 6  # its default is null, with which nothing runs
    assert_same_shape(read(config), config)


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss", "deepseek_v3"])
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


def test_a_window_that_is_switched_off_makes_no_difference() -> None:
    spec = read(SMALL | {"model_type": "qwen2", "sliding_window": 9, "max_window_layers": 0})
    assert len(spec.blocks) == 1
    assert spec.blocks[0].block.attention.window is None


def test_dense_layers_before_sparse_ones_are_a_run_of_their_own() -> None:
    spec = read(SMALL_LATENT | {"model_type": "deepseek_v3", "num_hidden_layers": 5, "first_k_dense_replace": 2})
    assert [run.count for run in spec.blocks] == [2, 3]
    assert [type(run.block.ffn) for run in spec.blocks] == [FeedForward, MixtureOfExperts]


def test_the_configuration_is_kept_as_it_was() -> None:
    config = SMALL | {"model_type": "llama", "quantization_config": {"quant_method": "fp8"}, "some_new_key": [1]}
    assert read(config).config == config


LLAMA = SMALL | {"model_type": "llama"}
BAD: dict[str, tuple[Any, str]] = {
    "no object": ([1], "holds a list"),
    "no model_type": (SMALL, "key 'model_type' is missing"),
    "model_type no word": (SMALL | {"model_type": ["llama"]}, "'model_type' is ['llama']"),
    "model_type misspelled": (SMALL | {"model_type": "lama"}, "Did you mean 'llama'?"),
    "model_type unknown": (SMALL | {"model_type": "resnet"}, "supported: bloom, deepseek_v2"),
    "hidden_size missing": ({"model_type": "llama", "num_hidden_layers": 2}, "key 'hidden_size' is missing"),
    "hidden_size misspelled": ({"model_type": "llama", "hidden_sise": 64}, "is 'hidden_sise' a misspelling of it?"),
    "hidden_size null": (LLAMA | {"hidden_size": None}, "key 'hidden_size' is missing"),
    "layers missing": ({"model_type": "llama", "hidden_size": 64}, "key 'num_hidden_layers' is missing"),
    "zero": (LLAMA | {"vocab_size": 0}, "'vocab_size' is 0: must be a whole number from 1"),
    "negative": (LLAMA | {"intermediate_size": -96}, "'intermediate_size' is -96: must be a whole number from 1"),
    "not a number": (LLAMA | {"hidden_size": float("nan")}, "'hidden_size' is NaN: must be a whole number"),
    "infinite": (LLAMA | {"hidden_size": float("inf")}, "'hidden_size' is Infinity: must be a whole number"),
    "fraction": (LLAMA | {"num_hidden_layers": 2.5}, "'num_hidden_layers' is 2.5: must be a whole number"),
    "text for a number": (LLAMA | {"hidden_size": "64"}, "'hidden_size' is \"64\": must be a whole number"),
    "true for a number": (LLAMA | {"num_hidden_layers": True}, "'num_hidden_layers' is true: must be a whole"),
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


class TestLoadModel:
    """A reference with a separator or ending in .json is a path, any other a preset first."""

    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The current folder, with a model of ours in a folder called as a preset and in another."""
        monkeypatch.chdir(tmp_path)
        for name in ("gpt2-124m", "mine"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "config.json").write_text(json.dumps(LLAMA))
        (tmp_path / "other.json").write_text(json.dumps(LLAMA))
        (tmp_path / "bare").write_text(json.dumps(LLAMA))
        (tmp_path / "empty").mkdir()
        return tmp_path

    def test_preset_in_any_case(self) -> None:
        assert load_model("Llama-3.1-70B") == load_model("llama-3.1-70b")

    def test_preset_wins_over_a_folder_of_its_name(self, folder: Path) -> None:
        assert load_model("gpt2-124m").family == "gpt2"

    @pytest.mark.parametrize(
        ("reference", "name"),
        [
            ("./gpt2-124m", "gpt2-124m"),
            ("mine", "mine"),
            ("mine/", "mine"),
            ("mine/config.json", "mine"),
            ("other.json", "other"),
            ("bare", "bare"),
        ],
    )
    def test_path(self, folder: Path, reference: str, name: str) -> None:
        model = load_model(reference)
        assert (model.family, model.name) == ("llama", name)

    def test_config_in_the_current_folder_is_called_after_the_folder(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(folder / "mine")
        assert load_model("config.json").name == "mine"
        assert load_model(".").name == "mine"

    @pytest.mark.parametrize(
        ("reference", "part"),
        [
            ("llama-3.1-70", "no preset, file or folder has that name. Did you mean 'llama-3.1-70b'?"),
            ("meta-llama/Llama-3.1-70B", "no such file or folder. Did you mean 'llama-3.1-70b'?"),
            ("gpt2-124m.json", "no such file or folder. Did you mean 'gpt2-124m'?"),
            ("", "give a preset's name"),
            ("empty", "the folder holds no config.json"),
            ("x" * 5000, f"There are {len(preset_names())} presets"),
            ("\0", "no preset, file or folder"),
        ],
    )
    def test_reference_to_nothing(self, folder: Path, reference: str, part: str) -> None:
        with pytest.raises(SpecError) as refusal:
            load_model(reference)
        assert part in str(refusal.value)
        assert "\n" not in str(refusal.value)

    @pytest.mark.parametrize("content", ["", '{"model_type": "llama", "hid', "{'model_type': 'llama'}", '{"a": NaN}'])
    def test_file_that_is_no_json(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(SpecError, match=r"config\.json"):
            load_model(str(tmp_path))

    def test_code_beside_a_configuration_is_never_run(self, tmp_path: Path) -> None:
        (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'was_run')!r}, 'w')\nclass Config: pass\n")
        config = LLAMA | {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert load_model(str(tmp_path)).parameter_count == read(LLAMA).parameter_count
        assert not (tmp_path / "was_run").exists()

    def test_imports_neither_torch_nor_transformers(self) -> None:
        code = (
            "import sys; from shardwright.costmodel.huggingface import load_model; load_model('qwen3-demo');"
            "print([name for name in ('torch', 'transformers') if name in sys.modules])"
        )
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
