from collections.abc import Mapping
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from shardwright.executor.model.fused import engine_state, hugging_face_state, unfuse
from shardwright.executor.model.hugging_face import model_class, read_config
from shardwright.executor.model.tensor_parallel import flatten_experts
from tests.parity.cases import layers, plan, plan_file
from tests.parity.families import FAMILIES, HYBRIDS, OTHERS


def _model(config: Mapping[str, Any]) -> PreTrainedModel:
    read = read_config(plan_file(dict(config), plan((layers(),))))
    build: Any = model_class(read)._from_config
    model: PreTrainedModel = build(read, attn_implementation="eager", dtype=torch.float32)
    model.train(mode=False)  # without dropout
    return model


@pytest.mark.parametrize("family", ["gpt2", "phi3", "glm4", "mixtral", "gpt_oss", "llama", "qwen3_next", "bamba"])
def test_states_go_there_and_back(family: str) -> None:
    model = _model((FAMILIES | OTHERS | HYBRIDS)[family])
    state = {name: value.detach().clone() for name, value in model.named_parameters(remove_duplicate=False)}
    unfuse(model, model.config)
    own = {name: value.detach() for name, value in model.named_parameters(remove_duplicate=False)}
    back = hugging_face_state(own)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)
    again = engine_state(back, {name: value.shape for name, value in own.items()})
    assert all(torch.equal(again[name], own[name]) for name in own)


@pytest.mark.parametrize("family", ["gpt2", "phi3", "glm4", "qwen3_next", "bamba"])
def test_a_split_projection_computes_the_same(family: str) -> None:
    model = _model((FAMILIES | OTHERS | HYBRIDS)[family])
    tokens = torch.arange(12).view(2, 6)
    with torch.no_grad():
        whole = model(input_ids=tokens).logits
        unfuse(model, model.config)
        flatten_experts(model)
        assert torch.allclose(model(input_ids=tokens).logits, whole, atol=1e-5)


def test_parts_of_unequal_size_are_queries_keys_and_values() -> None:
    attention = _model(FAMILIES["phi3"]).get_submodule("model.layers.0.self_attn")
    fused = attention.get_parameter("qkv_proj.weight").detach().clone()
    unfuse(attention, _model(FAMILIES["phi3"]).config)
    parts = [attention.get_parameter(f"qkv_proj.{index}.weight") for index in range(3)]
    assert [len(part) for part in parts] == [32, 16, 16]
    assert torch.equal(parts[1], fused[32:48])


def test_the_middle_part_is_the_keys() -> None:
    fused = torch.arange(6.0).repeat(2, 1)  # (hidden 2, query 0 1, key 2 3, value 4 5)
    name = "h.0.attn.c_attn.weight"
    own = engine_state({name: fused}, {name: torch.Size((2, 3, 2))})[name]
    assert own[:, 1].tolist() == [[2.0, 3.0], [2.0, 3.0]]
