"""The model families that the engine trains: the paths of their parts, and their division by tensor parallelism."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import ParallelStyle, PrepareModuleInput
from torch.distributed.tensor.placement_types import Placement
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.gpt2 import modeling_gpt2
from transformers.models.llama import modeling_llama
from transformers.models.qwen3 import modeling_qwen3

from .tensor_parallel import column_parallel, replicated, row_parallel

LayerRules = Callable[[Placement], Mapping[str, ParallelStyle]]
"""Maps the layout of the residual stream over tp (`Shard(1)`: by sequence, `Replicate()`) to a style per submodule."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """The paths of the parts of a Hugging Face causal language model, from the model, and its tp rules.

    `positions` is the path of a learned position embedding, `rotary` that of the rotary tables; a family has one of the
    two. `attention` is the path of a layer's attention, from the layer. `dropouts` names the dropout rates of the
    config.
    """

    config_class: type[PreTrainedConfig]
    model_class: type[PreTrainedModel]
    embedding: str
    layers: str
    final_norm: str
    head: str = "lm_head"
    positions: str | None = None
    rotary: str | None = None
    attention: str
    eager_attention: Callable[..., Any]
    layer_rules: LayerRules
    dropouts: tuple[str, ...]


def _linear_column() -> ParallelStyle:
    return column_parallel(weight=Shard(0), bias=Shard(0))


def _linear_row(stream: Placement) -> ParallelStyle:
    return row_parallel(stream, weight=Shard(1))


def _llama_rules(stream: Placement) -> dict[str, ParallelStyle]:
    whole_sequence = Replicate()
    return {
        "input_layernorm": replicated(stream),
        "self_attn": PrepareModuleInput(
            input_kwarg_layouts={"hidden_states": stream},
            desired_input_kwarg_layouts={"hidden_states": whole_sequence},
        ),
        "self_attn.q_proj": _linear_column(),
        "self_attn.k_proj": _linear_column(),
        "self_attn.v_proj": _linear_column(),
        "self_attn.o_proj": _linear_row(stream),
        "post_attention_layernorm": replicated(stream),
        "mlp": PrepareModuleInput(input_layouts=stream, desired_input_layouts=whole_sequence),
        "mlp.gate_proj": _linear_column(),
        "mlp.up_proj": _linear_column(),
        "mlp.down_proj": _linear_row(stream),
    }


def _qwen3_rules(stream: Placement) -> dict[str, ParallelStyle]:
    by_head = Shard(2)  # these norms read (batch, sequence, heads, head size); tp sums their weight's gradient
    return {
        **_llama_rules(stream),
        "self_attn.q_norm": replicated(by_head),
        "self_attn.k_norm": replicated(by_head),
    }


def _gpt2_rules(stream: Placement) -> dict[str, ParallelStyle]:
    gathered = PrepareModuleInput(input_layouts=stream, desired_input_layouts=Replicate())
    # transformers' Conv1D stores its weight as (in, out), the transpose of that of a Linear
    return {
        "ln_1": replicated(stream),
        "attn": gathered,
        "attn.c_attn": column_parallel(weight=Shard(2), bias=Shard(1)),
        "attn.c_proj": row_parallel(stream, weight=Shard(0)),
        "ln_2": replicated(stream),
        "mlp": gathered,
        "mlp.c_fc": column_parallel(weight=Shard(1), bias=Shard(0)),
        "mlp.c_proj": row_parallel(stream, weight=Shard(0)),
    }


FAMILIES: Mapping[str, Family] = {
    "llama": Family(
        config_class=LlamaConfig,
        model_class=LlamaForCausalLM,
        embedding="model.embed_tokens",
        layers="model.layers",
        final_norm="model.norm",
        rotary="model.rotary_emb",
        attention="self_attn",
        eager_attention=modeling_llama.eager_attention_forward,
        layer_rules=_llama_rules,
        dropouts=("attention_dropout",),
    ),
    "qwen3": Family(
        config_class=Qwen3Config,
        model_class=Qwen3ForCausalLM,
        embedding="model.embed_tokens",
        layers="model.layers",
        final_norm="model.norm",
        rotary="model.rotary_emb",
        attention="self_attn",
        eager_attention=modeling_qwen3.eager_attention_forward,
        layer_rules=_qwen3_rules,
        dropouts=("attention_dropout",),
    ),
    "gpt2": Family(
        config_class=GPT2Config,
        model_class=GPT2LMHeadModel,
        embedding="transformer.wte",
        layers="transformer.h",
        final_norm="transformer.ln_f",
        positions="transformer.wpe",
        attention="attn",
        eager_attention=modeling_gpt2.eager_attention_forward,
        layer_rules=_gpt2_rules,
        dropouts=("attn_pdrop", "embd_pdrop", "resid_pdrop"),
    ),
}
