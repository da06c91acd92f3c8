"""Launches, FLOPs and traffic of adapters, counted on torch and by hand."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from shardwright.costmodel.layers.frozen.adapters import Adapters
from shardwright.costmodel.layers.frozen.unneeded import unneeded_kernels
from shardwright.costmodel.layers.operators import Matmul, attention_matmuls, ffn_matmuls
from shardwright.specs.model.attention import MultiHeadAttention
from shardwright.specs.model.feed_forward import FeedForward
from shardwright.specs.model.model import Block
from shardwright.specs.stack import named_stack
from shardwright.specs.trainable import Trainable
from shardwright.specs.training import TrainingSpec
from tests.executor.parallel.test_kernel_counts import _Count

from .peft_layer import Adapted, adapt

LINEARS = [Matmul(10, 64, 32, modules=("q_proj",)), Matmul(10, 32, 64, modules=("o_proj",))]


def adapters(text: str, **options: object) -> Adapters:
    training = TrainingSpec.parse({"seq_len": 8, "global_batch": 1, "trainable": text, **options}, source="test")
    return Adapters(training, LINEARS)


def test_one_adapter_has_a_and_b() -> None:
    found = adapters("lora:r=4,targets=q_proj")
    assert [(w.m, w.k, w.n) for w in found.matmuls] == [(10, 64, 4), (10, 4, 32)]
    assert found.parameters == 4 * (64 + 32)
    assert found.kept_bytes == 10 * 4 * 2
    assert found.forward_bytes == 10 * 5 * 2 * 32
    assert found.backward_bytes == 10 * (2 * 2 * 32 + 3 * 2 * 64)


def test_dropout_keeps_a_mask_and_a_copy_of_each_input() -> None:
    found = adapters("lora:r=4,targets=q_proj,dropout=yes")
    assert found.kept_bytes == 10 * (4 * 2 + 3 * 64)


def test_peft_widens_inputs_of_adapters_in_fp32_beside_16_bits_alone() -> None:
    plain = adapters("lora:r=4,targets=q_proj")
    cast = adapters("lora:r=4,targets=q_proj", stack="hf-trainer")
    assert cast.forward_bytes - plain.forward_bytes == 10 * 64 * 2 * (2 + 4)
    assert adapters("qlora:r=4,targets=q_proj", stack="hf-trainer").forward_bytes == plain.forward_bytes


def _layer() -> tuple[LlamaDecoderLayer, LlamaRotaryEmbedding]:
    config = LlamaConfig(hidden_size=64, intermediate_size=128, num_attention_heads=4, num_key_value_heads=2)
    config._attn_implementation = "sdpa"
    return LlamaDecoderLayer(config, 0), LlamaRotaryEmbedding(config)


def _kernels(layer: LlamaDecoderLayer, rotary: LlamaRotaryEmbedding) -> tuple[int, int]:
    hidden = torch.randn(1, 16, 64, requires_grad=True)
    positions = rotary(hidden, torch.arange(16)[None])
    with _Count() as forward:
        output = layer(hidden, position_embeddings=positions)
    loss = (output[0] if isinstance(output, tuple) else output).sum()
    with _Count() as backward:
        torch.autograd.backward(loss)
    return forward.kernels, backward.kernels


def test_kernels_of_an_adapter() -> None:
    """One beside a linear whose input needs a gradient, counted against the linear alone."""
    hidden, base = torch.randn(16, 64, requires_grad=True), nn.Linear(64, 32, bias=False).requires_grad_(False)
    counts = []
    for module in (base, Adapted(base, 4)):
        with _Count() as forward:
            output = module(hidden)
        loss = output.sum()
        with _Count() as backward:
            torch.autograd.backward(loss)
        counts.append((forward.kernels, backward.kernels))
    forward_kernels, backward_kernels = adapters("lora:r=4,targets=q_proj").kernels
    assert counts[1][0] - counts[0][0] == forward_kernels
    assert counts[1][1] - counts[0][1] == pytest.approx(backward_kernels, abs=1)


def test_frozen_weights_leave_kernels_of_the_backward_out() -> None:
    layer, rotary = _layer()
    whole = _kernels(layer, rotary)
    adapt(layer, (), 4)
    frozen = _kernels(layer, rotary)
    block = Block(
        attention=MultiHeadAttention(heads=4, kv_heads=2, head_size=16), ffn=FeedForward(width=128, gated=True)
    )
    linears = [*attention_matmuls(block, 64, 16, 1, joined=False), *ffn_matmuls(block, 64, 16, 1, joined=False)]
    assert frozen[0] == whole[0]
    left_out = unneeded_kernels(block, named_stack("shardwright"), linears)
    assert whole[1] - frozen[1] == pytest.approx(left_out, abs=2)


def test_whole_matrices_of_experts_by_hand() -> None:
    """3 experts of width 5 on this rank, hidden 64, rank 4: A of gates and ups (4, 64) and B of downs (64, 4), for each expert."""
    linears = [
        Matmul(10, 64, 32, modules=("q_proj",)),
        Matmul(7, 64, 10, 3, experts=True, modules=("gate_proj", "up_proj")),
        Matmul(7, 5, 64, 3, experts=True, modules=("down_proj",)),
    ]
    found = Adapters(adapters("lora:r=4").training, linears)
    assert found.whole_elements == [4 * 64]
    assert found.whole_expert_elements == [3 * 4 * 64, 3 * 64 * 4]
    assert found.parameters == 4 * (64 + 32) + 3 * 4 * (64 + 10) + 3 * 4 * (5 + 64)


def test_linears_are_adapted_by_name() -> None:
    training = TrainingSpec(seq_len=8, global_batch=1, trainable=Trainable(kind="lora", rank=2, targets=("mlp",)))
    assert Adapters(training, LINEARS).adapted == []
