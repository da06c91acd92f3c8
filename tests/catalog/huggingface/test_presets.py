"""The models that come with the package: built by transformers to the same size, and as large as published."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from shardwright.catalog.huggingface.families import supported_model_types
from shardwright.catalog.huggingface.load import load_model, preset_names
from tests.catalog.huggingface.meta_model import assert_same_shape, save_again
from tests.catalog.huggingface.small_configs import read

# Sums over the tensors of the published checkpoints. Those of Falcon store the tied head a second time, and those of
# DeepSeek-V3 the correction bias of 58 routers of 256 experts, which no gradient reaches.
PUBLISHED = {
    "gpt2-124m": 124_439_808,
    "gpt2-355m": 354_823_168,
    "gpt2-774m": 774_030_080,
    "gpt2-1.5b": 1_557_611_200,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_620_634_112,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "deepseek-v2": 235_741_434_880,
    "deepseek-v2-lite": 15_706_484_224,
    "deepseek-v3": 671_026_419_200 - 58 * 256,
    "gpt-neox-20b": 20_554_567_680,
    "pythia-6.9b": 6_857_302_016,
    "opt-350m": 331_196_416,
    "bloom-176b": 176_247_271_424,
    "mpt-7b": 6_649_286_656,
    "falcon-7b": 7_217_189_760 - 65024 * 4544,
    "falcon-180b": 179_522_565_120 - 65024 * 14848,
    "gemma-2-2b": 2_614_341_888,
    "gemma-2-9b": 9_241_705_984,
    "gemma-2-27b": 27_227_128_320,
    "gemma-3-1b": 999_885_952,
    "phi-3-mini": 3_821_079_552,
    "phi-3-medium": 13_960_238_080,
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
}

# Billions to one decimal in table 1 of Narayanan et al. 2021 (arXiv 2104.04473).
MEGATRON_BILLIONS = {
    "gpt-1.7b": 1.7,
    "gpt-3.6b": 3.6,
    "gpt-7.5b": 7.5,
    "gpt-18b": 18.4,
    "gpt-39b": 39.1,
    "gpt-76b": 76.1,
    "gpt-145b": 145.6,
    "gpt-310b": 310.1,
    "mt-nlg-530b": 529.6,
    "gpt-1t": 1008.0,
}

# Billions on the model cards, most of them whole; those of gpt-oss and LongCat-Flash leave the embedding out, those of
# MiniMax-01 and GLM-4.5 (arXiv 2508.06471, table 1) also the head.
ACTIVE_BILLIONS = {
    "mixtral-8x7b": 12.9,
    "mixtral-8x22b": 39,
    "qwen1.5-moe-a2.7b": 2.7,
    "qwen3-30b-a3b": 3.3,
    "qwen3-235b-a22b": 22,
    "deepseek-v2": 21,
    "deepseek-v3": 37,
    "nemotron-3-nano-30b-a3b": 3.6,
    "minimax-text-01": 45.9 + 2 * 200064 * 6144 / 1e9,
    "qwen3-coder-480b-a35b": 35,
    "glm-4.5": 32 + 2 * 151552 * 5120 / 1e9,
    "glm-4.5-air": 12 + 2 * 151552 * 4096 / 1e9,
    "longcat-flash": 27 + 131072 * 6144 / 1e9,
    "phi-3.5-moe": 6.6,
    "olmoe-1b-7b": 1.3,
    "gpt-oss-20b": 3.61 + 201088 * 2880 / 1e9,
    "gpt-oss-120b": 5.13 + 201088 * 2880 / 1e9,
}


@pytest.mark.parametrize("name", preset_names())
def test_transformers_builds_the_same_model(name: str) -> None:
    spec = load_model(name)
    assert spec.name == name
    assert_same_shape(spec, spec.config)


@pytest.mark.parametrize("name", preset_names())
def test_what_transformers_saves_again_is_the_same_model(name: str, tmp_path: Path) -> None:
    spec = load_model(name)
    save_again(spec.config, tmp_path)
    again = load_model(str(tmp_path))
    assert (again.parameter_count, again.blocks) == (spec.parameter_count, spec.blocks)


@pytest.mark.parametrize(("name", "count"), PUBLISHED.items())
def test_is_as_large_as_the_published_checkpoint(name: str, count: int) -> None:
    assert load_model(name).parameter_count == count


# Billions on the model cards, and how far rounding takes them from ours.
BILLIONS = {
    "nemotron-h-8b": (8.1, 0.001),
    "nemotron-3-nano-30b-a3b": (31.6, 0.001),
    "minimax-text-01": (456, 0.001),
    "bamba-9b": (9.78, 0.001),
    "command-r-35b": (35, 0.001),
    "olmo-2-7b": (7.30, 0.001),
    "olmo-2-13b": (13.7, 0.002),
    "olmo-2-32b": (32.2, 0.002),
    "olmoe-1b-7b": (6.92, 0.001),
    "phi-3.5-moe": (41.9, 0.001),
    "smollm3-3b": (3.08, 0.002),
    "seed-oss-36b": (36.2, 0.002),
    "qwen3-coder-480b-a35b": (480, 0.001),
    "qwen3-next-80b-a3b": (80, 0.01),
    "longcat-flash": (560, 0.002),
    "glm-4.5": (355, 0.01),
    "glm-4.5-air": (106, 0.01),
    "minimax-m2": (230, 0.01),
    "ernie-4.5-300b-a47b": (300, 0.01),
}


@pytest.mark.parametrize(("name", "billions", "within"), [(name, *of) for name, of in BILLIONS.items()])
def test_is_as_large_as_its_card_says(name: str, billions: float, within: float) -> None:
    assert load_model(name).parameter_count / 1e9 == pytest.approx(billions, rel=within)


@pytest.mark.parametrize(("name", "billions"), MEGATRON_BILLIONS.items())
def test_megatron_model_is_as_large_as_in_the_table(name: str, billions: float) -> None:
    assert round(load_model(name).parameter_count / 1e9, 1) == billions


@pytest.mark.parametrize(("name", "billions"), ACTIVE_BILLIONS.items())
def test_one_token_passes_through_the_published_share(name: str, billions: float) -> None:
    assert load_model(name).active_parameter_count / 1e9 == pytest.approx(billions, rel=0.02)


OTHER_NAMES = {"gemma3", "llama4", "kimi_k2"}  # of gemma3_text, llama4_text and deepseek_v3
WITHOUT_PRESET = (
    "cohere2",
    "ernie4_5",
    "glm4",
    "granite",
    "granitemoe",
    "granitemoehybrid",
    "llama4_text",
    "olmo3",
)


CLASSES = (
    *("cohere", "ernie4_5_moe", "glm4_moe", "longcat_flash", "minimax_m2", "olmo2", "olmoe", "phimoe", "qwen3_next"),
    *("seed_oss", "smollm3", *WITHOUT_PRESET),
)


def test_every_other_family_has_a_preset() -> None:
    families = {load_model(name).family for name in preset_names()}
    assert families == set(supported_model_types()) - OTHER_NAMES - set(WITHOUT_PRESET)


@pytest.mark.parametrize("family", CLASSES)
def test_the_size_of_the_class_itself_is_as_transformers_builds_it(family: str) -> None:
    """The defaults of a configuration class make a model of the size that is used."""
    config = json.loads(transformers.AutoConfig.for_model(family).to_json_string(use_diff=False))
    if family == "glm4_moe":
        config["head_dim"] = 128  # 96 heads do not divide its hidden size
    config.pop("time_step_limit", None)  # without an end, which JSON does not have
    spec = read(config)
    assert spec.parameter_count > 3e8
    assert_same_shape(spec, config)


def test_names_are_lower_case_and_unique_under_it() -> None:
    assert list(preset_names()) == sorted({name.lower() for name in preset_names()})


def test_reads_only_the_file_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    read_text = Path.read_text

    def remember(path: Path, *args: Any, **kwargs: Any) -> str:
        read.append(path.name)
        return read_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", remember)
    load_model("llama-3.1-70b")
    assert read == ["llama-3.1-70b.json"]


def test_the_demo_model_reads_bytes_and_is_small() -> None:
    demo = load_model("qwen3-demo")
    assert demo.family == "qwen3"
    assert demo.vocab_size >= 256
    assert demo.parameter_count < 6e6
