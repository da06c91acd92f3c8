"""Linear attention as a recurrence in chunks: its FLOPs beside those that torch counts in transformers' own code."""

from typing import Any

import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from shardwright.costmodel.layers import operators
from shardwright.costmodel.layers.core import attention_core_flops
from shardwright.costmodel.layers.flops import model_flops_per_sequence
from shardwright.specs.model.linear_attention import GatedDelta
from shardwright.specs.training import Precision, TrainingSpec
from tests.catalog.huggingface.small_configs import SMALL_MOE, read

CONFIG: dict[str, Any] = SMALL_MOE | {
    "model_type": "qwen3_next",
    "num_hidden_layers": 2,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_value_heads": 6,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 12,
    "shared_expert_intermediate_size": 40,
}
SEQ = 128  # two chunks


def training(seq_len: int) -> TrainingSpec:
    return TrainingSpec(seq_len=seq_len, global_batch=2, precision=Precision(compute="fp32"))


def test_a_forward_has_the_flops_that_torch_counts() -> None:
    keys = {key: value for key, value in CONFIG.items() if key != "model_type"}
    build: Any = transformers.AutoModelForCausalLM.from_config
    model = build(transformers.AutoConfig.for_model("qwen3_next", **keys))
    mixer = model.model.layers[0].linear_attn
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        mixer(torch.randn(1, SEQ, CONFIG["hidden_size"]))
    block = read(CONFIG).layer_classes[0]
    attention = block.attention
    assert isinstance(attention, GatedDelta)
    matmuls = operators.attention_matmuls(block, CONFIG["hidden_size"], SEQ, 1)
    core = attention_core_flops(block, training(SEQ), SEQ, 1, causal=True)
    # its convolution is padded on both sides before the end is cut off
    padding = 2.0 * attention.convolved_width * attention.kernel * (attention.kernel - 1)
    # it solves a triangular system for what a kernel multiplies by the inverse; torch counts no FLOPs of that
    solved = 2.0 * SEQ * attention.heads * attention.chunk * (attention.key_size + attention.value_size)
    assert counted.get_total_flops() + solved - padding == float(sum(m.flops for m in matmuls) + core)


def test_its_flops_grow_with_the_tokens_alone() -> None:
    """Those of the other layer grow with the square of the length."""
    linear, full = read(CONFIG).layer_classes

    def per_token(block: Any, length: int) -> float:
        return float(attention_core_flops(block, training(length), length, 1, causal=False)) / length

    assert per_token(linear, 4096) == per_token(linear, 128)
    assert per_token(full, 4096) == 32 * per_token(full, 128)
    assert model_flops_per_sequence(read(CONFIG), training(256)) > 2 * model_flops_per_sequence(
        read(CONFIG), training(128)
    )
