"""Configurations small enough to count in no time, for tests to vary; and one way to read them all."""

from collections.abc import Mapping
from typing import Any

from shardwright.catalog.huggingface.families import model_from_config
from shardwright.specs.model.model import ModelSpec

SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 128,
    "pad_token_id": None,
}
SMALL_MOE = SMALL | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
SMALL_OPT = {"model_type": "opt", "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 96, "vocab_size": 128}
SMALL_LATENT = SMALL | {
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_routed_experts": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 12,
    "n_group": 1,
    "topk_group": 1,
}
_RENAMED = {
    "num_hidden_layers": "num_layers",
    "intermediate_size": "ffn_hidden_size",
    "moe_intermediate_size": "expert_ffn_hidden_size",
    "num_experts_per_tok": "moe_topk",
}
LONGCAT = {_RENAMED.get(key, key): value for key, value in SMALL_LATENT.items()} | {
    "model_type": "longcat_flash",
    "zero_expert_num": 2,
    "head_dim": 4,
}
MAMBA = {"mamba_n_heads": 8, "mamba_d_state": 16, "mamba_n_groups": 2}
NEMOTRON = SMALL | {
    "model_type": "nemotron_h",
    "mamba_num_heads": 8,
    "mamba_head_dim": 16,
    "n_groups": 2,
    "ssm_state_size": 8,
    "head_dim": 24,
    "n_routed_experts": 4,
    "moe_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 40,
}
LLAMA = SMALL | {"model_type": "llama"}


def read(config: Mapping[str, Any]) -> ModelSpec:
    """The model of `config`, as if it stood in config.json."""
    return model_from_config(config, name="a model", source="config.json")
