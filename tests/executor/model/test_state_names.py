import torch
from transformers import GPT2Config, GPT2LMHeadModel

from shardwright.executor.model.state_names import engine_state, hugging_face_state
from tests.parity.cases import model_config


def test_states_go_there_and_back() -> None:
    state = GPT2LMHeadModel(GPT2Config.from_dict(model_config("gpt2"))).state_dict()
    own = engine_state(state)
    assert own["transformer.h.0.attn.c_attn.weight"].shape == (32, 3, 32)
    assert own["transformer.h.1.attn.c_attn.bias"].shape == (3, 32)
    back = hugging_face_state(own)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_the_middle_part_is_the_keys() -> None:
    fused = torch.arange(6.0).repeat(2, 1)  # (hidden 2, query 0 1, key 2 3, value 4 5)
    own = engine_state({"h.0.attn.c_attn.weight": fused})["h.0.attn.c_attn.weight"]
    assert own[:, 1].tolist() == [[2.0, 3.0], [2.0, 3.0]]
