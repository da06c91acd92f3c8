"""What the executor finds in a model without knowing its family."""

from typing import Any

import pytest
import torch
from torch import nn

from shardwright.base.errors import SpecError
from shardwright.executor.model.hugging_face import Skeleton, read_skeleton
from shardwright.executor.model.stage_module import StageModule
from shardwright.executor.model.structure import read_structure
from tests.parity.cases import layers, plan, plan_file
from tests.parity.families import FAMILIES

BLOOM = {"model_type": "bloom", "hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 100}


def skeleton(config: dict[str, Any]) -> Skeleton:
    return read_skeleton(plan_file(config, plan((layers(),))))


@pytest.mark.parametrize(
    ("config", "before", "after", "tuple_size"),
    [
        (FAMILIES["llama"], ("model.embed_tokens",), ("model.norm", "lm_head"), 0),
        (FAMILIES["gpt2"], ("transformer.wte", "transformer.wpe"), ("transformer.ln_f", "lm_head"), 0),
        (FAMILIES["gpt_neox"], ("gpt_neox.embed_in",), ("gpt_neox.final_layer_norm", "lm_head"), 0),
        (
            BLOOM,
            ("transformer.word_embeddings", "transformer.word_embeddings_layernorm"),
            ("transformer.ln_f", "lm_head"),
            2,
        ),
    ],
)
def test_what_runs_before_and_after_the_layers(
    config: dict[str, Any], before: tuple[str, ...], after: tuple[str, ...], tuple_size: int
) -> None:
    found = skeleton(config).structure
    assert (found.before, found.after, found.tuple_size) == (before, after, tuple_size)


@pytest.mark.parametrize("family", FAMILIES)
def test_stages_hold_every_parameter_once(family: str) -> None:
    whole = skeleton(FAMILIES[family])
    names: list[str] = []
    for first in range(2):
        stage = StageModule(whole, first, [layers(1)], seq_len=16)
        names += [name for name, _ in stage.named_parameters(remove_duplicate=False)]
    expected = [name for name, _ in whole.model.named_parameters(remove_duplicate=False)]
    assert sorted(names) == sorted(expected)


def test_a_part_that_is_never_run_is_refused_by_name() -> None:
    model = skeleton(FAMILIES["llama"]).model
    with torch.device("meta"):
        model.add_module("draft", nn.Linear(4, 4))
    with pytest.raises(SpecError, match="'draft' of LlamaForCausalLM is no part of its forward pass"):
        read_structure(model, "tiny")


def test_the_model_is_whole_again_after_it_was_looked_at() -> None:
    whole = skeleton(FAMILIES["llama"])
    assert all(
        type(layer).__name__ == "LlamaDecoderLayer" for layer in whole.model.get_submodule("model.layers").children()
    )
