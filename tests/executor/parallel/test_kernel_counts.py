"""The kernel counts of the cost model are those of the layer that the executor runs."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from shardwright.specs.stack import named_stack

VIEWS = {"view", "transpose", "unsqueeze", "expand", "slice", "t", "_unsafe_view", "detach", "as_strided", "alias"}


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
