"""Public models by the names that tables give them."""

import pytest

from shardwright.validation.architecture.preset import preset_of_row
from tests.validation.made_up_rows import row

_UNKNOWN: dict[str, object] = dict.fromkeys(
    ("layers", "hidden", "heads", "kv_heads", "ffn_hidden", "vocab", "params_b", "tied_embeddings")
)


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("Llama-3.1-8B", "llama-3.1-8b"),
        ("Llama3 70B", "llama-3-70b"),
        ("LLAMA2-7B (SFT)", "llama-2-7b"),
        ("GPT3-1.3B", "gpt3-1.3b"),
        ("GPT3-13B", "gpt3-13b"),
        ("GPT3-355M", "gpt3-350m"),
        ("DeepSeek V3 671B", "deepseek-v3"),
        ("DeepSeek-V3 16B", "deepseek-v2-lite"),
        ("DeepSeek-V3 37B", None),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "llama-3-8b"),
        ("Llama-3-405B", "llama-3.1-405b"),
        ("GPT-2 XL", "gpt2-1.5b"),
        ("Qwen2.5-Coder-7B-Instruct", "qwen2.5-7b"),
        ("Mistral-7B-v0.1", "mistral-7b"),
        ("Kimi K2", "kimi-k2"),
        ("Qwen3-235B-A22B", "qwen3-235b-a22b"),
        ("Mixtral 8x7B", "mixtral-8x7b"),
        ("(see notes)", None),
        ("Llama4 Scout", None),
        ("70B", None),
        (None, None),
    ],
)
def test_names(name: str | None, preset: str | None) -> None:
    found = preset_of_row(row(model=name, **_UNKNOWN))
    assert (found.name if found else None) == preset


@pytest.mark.parametrize(
    "contradiction",
    [
        {"layers": 41},
        {"hidden": 4096},
        {"vocab": 32064},
        {"kv_heads": 8},
        {"tied_embeddings": True},
        {"experts": 8},
        {"params_b": 7.0},
    ],
)
def test_a_size_that_contradicts_is_another_model(contradiction: dict[str, object]) -> None:
    agreeing = preset_of_row(row())
    assert agreeing is not None
    assert agreeing.name == "llama-2-13b"
    assert preset_of_row(row(**contradiction)) is None


def test_a_mixture_of_experts_is_compared_by_its_experts() -> None:
    stated = _UNKNOWN | {"model": "Mixtral-8x7B", "experts": 8, "topk": 2, "moe_ffn": 14336}
    assert preset_of_row(row(**stated)) is not None
    assert preset_of_row(row(**stated | {"experts": 16})) is None
