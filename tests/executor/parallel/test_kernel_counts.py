"""The kernel counts of the cost model are those of the layer that the executor runs."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, Qwen3MoeConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

from shardwright.specs.stack import named_stack

VIEWS = {
    *("view", "transpose", "unsqueeze", "expand", "slice", "t", "_unsafe_view", "detach", "as_strided", "alias"),
    *("select", "split", "squeeze", "permute", "unbind", "lift_fresh"),
}


class _Count(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch leaves its base untyped
    """Counts operators that do work: no views, no allocations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # likewise
        self.kernels = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.kernels += name not in VIEWS and not name.startswith(("empty", "new_empty"))
        return func(*args, **(kwargs or {}))


def test_kernels_of_a_layer() -> None:
    config = LlamaConfig(hidden_size=64, intermediate_size=128, num_attention_heads=4, num_key_value_heads=2)
    config._attn_implementation = "sdpa"
    layer, rotary = LlamaDecoderLayer(config, 0), LlamaRotaryEmbedding(config)
    hidden = torch.randn(1, 16, 64, requires_grad=True)
    positions = rotary(hidden, torch.arange(16)[None])
    with _Count() as forward:
        output = layer(hidden, position_embeddings=positions)
    output = output[0] if isinstance(output, tuple) else output
    loss = output.sum()
    with _Count() as backward:
        torch.autograd.backward(loss)
    assert abs(forward.kernels - named_stack("shardwright").kernels_forward) <= 4
    assert abs(backward.kernels - named_stack("shardwright").kernels_backward) <= 8
    with _Count() as rest, torch.no_grad():
        hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    # what CUDA graphs of attention take (costmodel/layers/layer.py)
    assert forward.kernels - rest.kernels == pytest.approx(22, abs=2)


def _kernels_of_experts(count: int, implementation: str) -> tuple[int, int]:
    """Kernels of a block of so many experts, forward and backward; each expert gets tokens."""
    torch.manual_seed(0)
    config = Qwen3MoeConfig(hidden_size=64, moe_intermediate_size=32, num_experts=count, num_experts_per_tok=4)
    config._experts_implementation = implementation
    block = Qwen3MoeSparseMoeBlock(config)
    torch.nn.init.normal_(block.gate.weight)
    torch.nn.init.normal_(block.experts.gate_up_proj)
    torch.nn.init.normal_(block.experts.down_proj)
    hidden = torch.randn(1, 512, 64, requires_grad=True)
    with _Count() as forward:
        output = block(hidden)
    loss = (output[0] if isinstance(output, tuple) else output).sum()
    with _Count() as backward:
        torch.autograd.backward(loss)
    return forward.kernels, backward.kernels


def test_kernels_that_choose_experts() -> None:
    """What CUDA graphs of the router take (costmodel/layers/layer.py)."""
    block = Qwen3MoeSparseMoeBlock(Qwen3MoeConfig(hidden_size=64, num_experts=8, num_experts_per_tok=4))
    torch.nn.init.normal_(block.gate.weight)
    hidden = torch.randn(512, 64, requires_grad=True)
    with _Count() as forward:
        chosen = block.gate(hidden)
    loss = sum(each.sum() for each in chosen if each.requires_grad)
    with _Count() as backward:
        torch.autograd.backward(loss)
    assert (forward.kernels, backward.kernels) == (3, 7)


def test_a_loop_over_experts_launches_so_many_kernels_for_each() -> None:
    few, many = (_kernels_of_experts(count, "eager") for count in (8, 16))
    stack = named_stack("hf-trainer")
    assert (many[0] - few[0]) / 8 == stack.expert_kernels_forward
    assert (many[1] - few[1]) / 8 == stack.expert_kernels_backward


def test_a_grouped_kernel_launches_as_many_for_any_number_of_experts() -> None:
    few, many = (_kernels_of_experts(count, "grouped_mm") for count in (8, 16))
    assert few == many
    assert named_stack("shardwright").expert_kernels_forward == 0
