"""Tiny configurations of the families that the executor trains, whose heads and widths two ranks divide."""

from typing import Any

_DENSE: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    # wide initial weights: with the usual 0.02 attention is nearly uniform, and a wrong gradient in it goes unseen
    "initializer_range": 0.2,
    "pad_token_id": None,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
_EXPERTS = _DENSE | {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_LATENT = _DENSE | {
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 12,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "n_group": 1,
    "topk_group": 1,
}
_SLIDING = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": _DENSE,
    "mistral": _DENSE | {"sliding_window": 4},
    "qwen2": _DENSE | {"use_sliding_window": True} | _SLIDING,
    "qwen3": _DENSE | {"head_dim": 8},
    "gemma2": _DENSE | {"head_dim": 8, "query_pre_attn_scalar": 8, "tie_word_embeddings": True} | _SLIDING,
    "gemma3_text": _DENSE | {"head_dim": 8, "query_pre_attn_scalar": 8, "tie_word_embeddings": True} | _SLIDING,
    "phi3": _DENSE,
    "olmo2": _DENSE,
    "olmo3": _DENSE | _SLIDING,
    "glm4": _DENSE | {"head_dim": 8, "attention_bias": True},
    "smollm3": _DENSE | {"no_rope_layers": [1, 0]},
    "granite": _DENSE
    | {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.2, "logits_scaling": 2.0},
    "gpt_neox": {key: value for key, value in _DENSE.items() if key != "num_key_value_heads"},
    "gpt2": {
        "vocab_size": 100,
        "n_positions": 32,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "initializer_range": 0.2,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
    "mixtral": _EXPERTS,
    "qwen2_moe": _EXPERTS | {"shared_expert_intermediate_size": 24, "mlp_only_layers": [0]},
    "qwen3_moe": _EXPERTS | {"head_dim": 8},
    "gpt_oss": _EXPERTS | {"head_dim": 8} | _SLIDING,
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT,
}
FAMILIES = {name: {"model_type": name, **config} for name, config in FAMILIES.items()}

OTHERS: dict[str, dict[str, Any]] = {
    "gemma": _DENSE | {"head_dim": 8, "tie_word_embeddings": True},
    "phi": _DENSE,
    "cohere": _DENSE | {"use_qk_norm": True, "tie_word_embeddings": True},
    "cohere2": _DENSE | {"head_dim": 8} | _SLIDING,
    "falcon": {
        **{key: value for key, value in _DENSE.items() if key != "num_key_value_heads"},
        "new_decoder_architecture": True,
        "num_kv_heads": 2,
        "alibi": False,
    },
    "seed_oss": _DENSE | {"head_dim": 8},
    "ernie4_5": _DENSE | {"head_dim": 8, "use_bias": True},
    "olmoe": _EXPERTS | {"intermediate_size": 16},
    "granitemoe": _EXPERTS | {"intermediate_size": 16},
    "minimax_m2": _EXPERTS | {"intermediate_size": 16, "head_dim": 8, "rotary_dim": 4},
    "glm4_moe": _EXPERTS
    | {
        "head_dim": 8,
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "use_qk_norm": True,
    },
    "qwen3_next": _EXPERTS
    | {
        "head_dim": 8,
        "shared_expert_intermediate_size": 24,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 6,
        "layer_types": ["linear_attention", "full_attention"],
        "mlp_only_layers": [0],
    },
    "longcat_flash": {
        key: value
        for key, value in _LATENT.items()
        if key not in ("num_hidden_layers", "intermediate_size", "moe_intermediate_size", "num_experts_per_tok")
    }
    | {"num_layers": 2, "ffn_hidden_size": 48, "expert_ffn_hidden_size": 16, "zero_expert_num": 2, "moe_topk": 2}
    | {"head_dim": 8},
    "ernie4_5_moe": _EXPERTS
    | {"head_dim": 8, "moe_num_experts": 4, "moe_k": 2, "moe_num_shared_experts": 1, "moe_layer_start_index": 1},
}
"""Further ones that the cost model reads and tensor parallelism divides."""
OTHERS = {name: {"model_type": name, **config} for name, config in OTHERS.items()}

_PLAIN_HEADS = {key: value for key, value in _DENSE.items() if key != "num_key_value_heads"}
UNDIVIDED: dict[str, dict[str, Any]] = {
    "bloom": _PLAIN_HEADS,
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64, "vocab_size": 100},
    "opt": _PLAIN_HEADS | {"ffn_dim": 48, "word_embed_proj_dim": 32, "init_std": 0.2},
    "phimoe": _EXPERTS | {"intermediate_size": 16},
    "llama4_text": _EXPERTS
    | {"head_dim": 8, "intermediate_size_mlp": 48, "interleave_moe_layer_step": 1, "num_experts_per_tok": 1},
}
"""Those whose layers are not divided over tp."""
UNDIVIDED = {name: {"model_type": name, **config} for name, config in UNDIVIDED.items()}
_MAMBA = {"mamba_n_heads": 8, "mamba_d_state": 8, "mamba_n_groups": 2, "mamba_chunk_size": 8}
_NEMOTRON = {key: value for key, value in _EXPERTS.items() if key not in ("num_hidden_layers", "num_experts")} | {
    "model_type": "nemotron_h",
    "mamba_num_heads": 8,
    "mamba_head_dim": 8,
    "n_groups": 2,
    "ssm_state_size": 8,
    "chunk_size": 8,
    "head_dim": 8,
    "n_routed_experts": 4,
    "moe_shared_expert_intermediate_size": 24,
}
HYBRIDS: dict[str, dict[str, Any]] = {
    "bamba": _DENSE | _MAMBA | {"model_type": "bamba", "attn_layer_indices": [1]},
    "granitemoehybrid": _EXPERTS
    | _MAMBA
    | {
        "model_type": "granitemoehybrid",
        "layer_types": ["linear_attention", "full_attention"],
        "intermediate_size": 16,
        "shared_intermediate_size": 24,
    },
    "minimax": _EXPERTS
    | {
        "model_type": "minimax",
        "intermediate_size": 16,
        "head_dim": 8,
        "block_size": 8,
        "layer_types": ["linear_attention", "full_attention"],
    },
    "nemotron_h": _NEMOTRON | {"hybrid_override_pattern": "ME"},
}
"""Those with recurrent layers, or layers of one sublayer. Tensor parallelism divides Bamba and Nemotron-H."""
UNDIVIDED["falcon with alibi"] = OTHERS["falcon"] | {"alibi": True}
