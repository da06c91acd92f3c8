"""Kinds of models."""

import pytest

from shardwright.catalog.huggingface.load import load_model
from shardwright.validation.scores.model_kind import model_kind


@pytest.mark.parametrize(
    ("preset", "kind"),
    [
        ("gpt2-124m", "dense, below 1B"),
        ("llama-3.2-3b", "dense, 1B to 4B"),
        ("llama-3.1-8b", "dense, 4B to 10B"),
        ("llama-2-13b", "dense, 10B to 40B"),
        ("llama-3.1-70b", "dense, 40B to 100B"),
        ("gpt3-175b", "dense, above 100B"),
        ("mixtral-8x7b", "experts, 40B to 100B"),
        ("qwen3-235b-a22b", "experts, above 100B"),
    ],
)
def test_kind(preset: str, kind: str) -> None:
    assert model_kind(load_model(preset)) == kind
