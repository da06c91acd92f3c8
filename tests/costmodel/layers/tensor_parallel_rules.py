"""Division over tp of layers that the executor does not train yet, in its own layouts."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import ParallelStyle
from torch.distributed.tensor.placement_types import Placement

from shardwright.executor.model import FAMILIES, replicated
from shardwright.executor.model.tensor_parallel import Layout, column_parallel, row_parallel

Rules = Callable[[Placement], Mapping[str, ParallelStyle]]


def _column() -> ParallelStyle:
    return column_parallel(weight=Shard(0), bias=Shard(0))


def _four_norms(rules: Rules) -> Rules:
    """The rules of a layer that also normalises the output of both halves."""
    names = ("pre_feedforward_layernorm", "post_feedforward_layernorm")
    return lambda stream: {**rules(stream), **{name: replicated(stream) for name in names}}


def _named(norms: str, columns: str, rows: str) -> Rules:
    """Rules from space-separated paths. The output of a norm is gathered whole."""

    def rules(stream: Placement) -> dict[str, ParallelStyle]:
        return {
            **{path: Layout(given=stream, used=stream, produced=Replicate()) for path in norms.split()},
            **{path: _column() for path in columns.split()},
            **{path: row_parallel(stream, weight=Shard(1)) for path in rows.split()},
        }

    return rules


_LLAMA, _QWEN3 = FAMILIES["llama"].layer_rules, FAMILIES["qwen3"].layer_rules

RULES: Mapping[str, Rules] = {
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": _four_norms(_LLAMA),
    "gemma3_text": _four_norms(_QWEN3),
    "bloom": _named(
        "input_layernorm post_attention_layernorm",
        "self_attention.query_key_value mlp.dense_h_to_4h",
        "self_attention.dense mlp.dense_4h_to_h",
    ),
    "falcon": _named(
        "ln_attn ln_mlp",
        "self_attention.query_key_value mlp.dense_h_to_4h",
        "self_attention.dense mlp.dense_4h_to_h",
    ),
    "gpt_neox": _named(
        "input_layernorm post_attention_layernorm",
        "attention.query_key_value mlp.dense_h_to_4h",
        "attention.dense mlp.dense_4h_to_h",
    ),
    "opt": _named(
        "self_attn_layer_norm final_layer_norm",
        "self_attn.q_proj self_attn.k_proj self_attn.v_proj fc1",
        "self_attn.out_proj fc2",
    ),
    "phi": _named(
        "input_layernorm",
        "self_attn.q_proj self_attn.k_proj self_attn.v_proj mlp.fc1",
        "self_attn.dense mlp.fc2",
    ),
}
# OPT's layer flattens batch and sequence in between, so that the sequence cannot be divided over tp
WHOLE_SEQUENCE = ("opt",)


def prepare(layer: nn.Module, tp: int) -> None:
    """Tell attention how many heads a rank has, where it counts them by itself.

    Falcon adds in place to the output of its feed-forward, which DTensor forbids; here it adds to a copy.
    """
    if tp > 1 and hasattr(layer, "ln_mlp"):
        layer.get_submodule("mlp").register_forward_hook(lambda _module, _inputs, output: output.clone())
    for name in ("self_attn", "self_attention"):
        attention: Any = getattr(layer, name, None)
        for count in ("num_heads", "num_kv_heads"):
            if hasattr(attention, count):
                setattr(attention, count, getattr(attention, count) // tp)
