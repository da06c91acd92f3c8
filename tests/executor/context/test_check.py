"""Context parallelism refuses, in one line, what it would compute wrongly."""

from typing import Any

import pytest

from shardwright.base.errors import SpecError
from shardwright.executor.context import check_context
from shardwright.executor.model import read_skeleton
from shardwright.specs.plan import ContextParallel
from tests.parity.cases import layers, model_config, plan, plan_file
from tests.parity.families import FAMILIES

LLAMA = model_config("llama")
WINDOWS = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
LONG_ROTATION = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 4,
    "long_factor": [2.0] * 4,
    "factor": 2.0,
}
LINEAR: dict[str, Any] = {
    **model_config("qwen3"),
    "model_type": "qwen3_next",
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "num_experts": 0,
    "mlp_only_layers": [0, 1],
}
CONVOLUTIONS: dict[str, Any] = {
    **model_config("qwen3"),
    "model_type": "lfm2",
    "layer_types": ["conv", "full_attention"],
}
BLOOM = {"model_type": "bloom", "vocab_size": 100, "hidden_size": 32, "n_layer": 2, "n_head": 4}


def _refusal(config: dict[str, Any], kind: ContextParallel = "all-gather", **options: Any) -> str:
    degrees = {"cp": 2, **options.pop("mesh", {})}
    file = plan_file(config, plan((layers(),), context_parallel=kind, **degrees), **options)
    with pytest.raises(SpecError) as caught:
        check_context(file, read_skeleton(file))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["all-gather", "ring", "ulysses"])
def test_what_runs_is_accepted(kind: ContextParallel) -> None:
    file = plan_file(LLAMA, plan((layers(),), cp=2, context_parallel=kind))
    check_context(file, read_skeleton(file))


def test_a_length_that_zigzag_does_not_divide() -> None:
    assert "cuts a sequence into 4 parts, which 18 tokens don't divide by" in _refusal(LLAMA, seq_len=18)


def test_heads_that_ranks_cannot_trade() -> None:
    says = _refusal(LLAMA, "ulysses", mesh={"cp": 8, "tp": 1})
    assert "8 ranks (ulysses) cannot trade 4 heads and 2 KV heads of tiny-llama" in says


def test_unfused_attention() -> None:
    assert "cp 2 needs fused attention; plan with --attention flash" in _refusal(LLAMA, attention="unfused")


def test_windows_in_a_ring() -> None:
    assert "windows of 4 tokens does not run over a ring" in _refusal({**model_config("qwen3"), **WINDOWS}, "ring")


def test_a_class_that_has_windows_and_does_not_use_them_runs_in_a_ring() -> None:
    """Qwen2-MoE says 0 where no layer has a window."""
    file = plan_file(FAMILIES["qwen2_moe"], plan((layers(),), cp=2, context_parallel="ring"))
    check_context(file, read_skeleton(file))


def test_rotation_that_depends_on_the_length_runs() -> None:
    config = {**model_config("llama"), "rope_parameters": LONG_ROTATION, "original_max_position_embeddings": 32}
    file = plan_file(config, plan((layers(),), cp=2))
    check_context(file, read_skeleton(file))


def test_a_class_without_fused_attention() -> None:
    assert "needs fused attention, which transformers has not for this class; plan with cp 1" in _refusal(BLOOM)


def test_a_class_that_looks_at_the_order_of_tokens() -> None:
    """LFM-2 mixes neighbouring tokens by convolutions of its own."""
    assert "Lfm2ForCausalLM looks at the order of its tokens outside attention" in _refusal(CONVOLUTIONS)


@pytest.mark.parametrize("kind", ["all-gather", "ring", "ulysses"])
def test_linear_attention_is_accepted(kind: ContextParallel) -> None:
    file = plan_file(LINEAR, plan((layers(),), cp=2, context_parallel=kind))
    check_context(file, read_skeleton(file))


def test_pieces_shorter_than_the_reach_of_a_convolution() -> None:
    says = _refusal(LINEAR, seq_len=8)
    assert "cp 2 leaves pieces of 2 tokens, and convolutions look 3 tokens back; plan with another cp or length" in says
