"""Division over tp of layers that the executor does not train yet, in its own layouts."""

from collections.abc import Callable, Mapping

from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import ParallelStyle, PrepareModuleInput
from torch.distributed.tensor.placement_types import Placement

from shardwright.executor.model import FAMILIES, replicated
from shardwright.executor.model.tensor_parallel import column_parallel, row_parallel

Rules = Callable[[Placement], Mapping[str, ParallelStyle]]
_COLUMNS, _WEIGHT = ("weight", "bias"), "weight"


def _column() -> ParallelStyle:
    return column_parallel(weight=Shard(0), bias=Shard(0))


def _four_norms(rules: Rules) -> Rules:
    """The rules of a layer that also normalises the output of both halves."""
    names = ("pre_feedforward_layernorm", "post_feedforward_layernorm")
    return lambda stream: {**rules(stream), **{name: replicated(stream) for name in names}}


def _named(norms: str, columns: str, rows: str, *, attention: str, mlp: str | None) -> Rules:
    """Rules from space-separated paths. A layer without `mlp` gathers the input of its first columns by themselves."""

    def rules(stream: Placement) -> dict[str, ParallelStyle]:
        whole = Replicate()
        keywords = PrepareModuleInput(
            input_kwarg_layouts={"hidden_states": stream}, desired_input_kwarg_layouts={"hidden_states": whole}
        )
        first = PrepareModuleInput(input_layouts=stream, desired_input_layouts=whole)
        gathered = {attention: keywords if attention == "self_attn" else first}
        return {
            **{path: replicated(stream) for path in norms.split()},
            **gathered,
            **({mlp: first} if mlp else {}),
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
    "phi": _named(
        "input_layernorm",
        "self_attn.q_proj self_attn.k_proj self_attn.v_proj mlp.fc1",
        "self_attn.dense mlp.fc2",
        attention="self_attn",
        mlp="mlp",
    ),
    "gpt_neox": _named(
        "input_layernorm post_attention_layernorm",
        "attention.query_key_value mlp.dense_h_to_4h",
        "attention.dense mlp.dense_4h_to_h",
        attention="attention",
        mlp="mlp",
    ),
    "opt": _named(
        "self_attn_layer_norm final_layer_norm",
        "self_attn.q_proj self_attn.k_proj self_attn.v_proj fc1",
        "self_attn.out_proj fc2",
        attention="self_attn",
        mlp=None,
    ),
}
