"""What a feed-forward of 96 columns keeps of a token, and experts of 48, four of which two are chosen, in bf16."""

import numpy as np
import pytest

from shardwright.costmodel.layers.saved import layer_code
from shardwright.costmodel.layers.saved.feed_forward import FeedForwardTensors
from shardwright.specs.model.attention import MultiHeadAttention
from shardwright.specs.model.feed_forward import Activation, FeedForward, MixtureOfExperts
from shardwright.specs.model.model import Block
from shardwright.specs.trainable import Trainable

HIDDEN, WIDTH, EXPERT = 64, 96, 48
ATTENTION = MultiHeadAttention(heads=4, kv_heads=4, head_size=16)
EXPERTS = MixtureOfExperts(experts=4, top_k=2, expert_width=EXPERT)


def tensors(ffn: FeedForward | MixtureOfExperts, family: str = "llama", *, element: int = 2) -> FeedForwardTensors:
    block = Block(attention=ATTENTION, ffn=ffn)
    sizes = (np.array([1]), np.array([2.0]), np.array([2.0]), np.array([2.0 * EXPERT]))
    return FeedForwardTensors(block, layer_code(family, block), element, HIDDEN, *sizes, Trainable())


@pytest.mark.parametrize(
    ("activation", "gated", "kept"),
    [
        ("kernel", False, 2),  # its input and its result
        ("relu", False, 1),  # its result
        ("gelu_new", False, 5),  # input, half of it, tanh, tanh plus one, result
        ("kernel", True, 4),  # gate, activated gate, up, product
        ("relu", True, 3),
    ],
)
def test_tensors_as_wide_as_the_feed_forward(activation: Activation, gated: bool, kept: int) -> None:
    found = tensors(FeedForward(width=WIDTH, gated=gated, activation=activation))
    assert found.inner == 2 * kept * WIDTH
    assert found.routed == 0
    assert found.layer_bytes == 0


@pytest.mark.parametrize(("clamped", "kept"), [(False, 4), (True, 7)])
def test_experts_keep_as_much_of_each_copy(clamped: bool, kept: int) -> None:
    assert tensors(EXPERTS.model_copy(update={"clamped": clamped})).inner == 2 * kept * 2 * EXPERT


def test_a_shared_expert_is_a_feed_forward_beside_them() -> None:
    shared = EXPERTS.model_copy(update={"shared_width": 40})
    assert tensors(shared, "qwen2_moe").inner - tensors(EXPERTS, "qwen2_moe").inner == 2 * 4 * 40


# of each chosen expert: the token there and back, four indices, its weight
EACH = 2 * 2 * HIDDEN + 4 * 8


@pytest.mark.parametrize(
    ("family", "routed"),
    [
        ("qwen3_moe", 4 * 4 + 2 * (EACH + 2)),  # softmax; weights in bf16
        ("mixtral", 4 * 4 + 4 + 2 * (EACH + 4 + 4)),  # softmax, sum; weights in fp32 before and after
        ("gpt_oss", 2 * (EACH + 2 + 2 + 8)),  # softmax of the chosen, weight, index of the bias
        ("deepseek_v2", 4 * 4 + 4 * HIDDEN + 2 * (EACH + 4)),  # softmax, fp32 input
        ("deepseek_v3", 5 * 4 + 4 + 4 * HIDDEN + 2 * (EACH + 4 + 4)),  # sigmoid and mask, sum, fp32 input
    ],
)
def test_routing(family: str, routed: int) -> None:
    assert tensors(EXPERTS, family).routed == routed


def test_a_gated_shared_expert_keeps_the_gate_and_its_output() -> None:
    shared = EXPERTS.model_copy(update={"shared_width": 40, "shared_gate": True})
    assert tensors(shared, "qwen2_moe").routed - tensors(EXPERTS, "qwen2_moe").routed == 2 * (HIDDEN + 1)


def test_deepseeks_router_copies_its_weight_but_in_fp32() -> None:
    assert tensors(EXPERTS, "mixtral").layer_bytes == 4 * 4  # offsets of the experts
    assert tensors(EXPERTS, "deepseek_v3").layer_bytes == 4 * 4 + 4 * 4 * HIDDEN
    assert tensors(EXPERTS, "deepseek_v3", element=4).layer_bytes == 4 * 4
