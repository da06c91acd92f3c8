"""The architecture of a model in Megatron-LM's arguments, and back as a Hugging Face configuration."""

from typing import Any

from shardwright.base import SpecError
from shardwright.catalog.huggingface import model_from_config
from shardwright.exports.text import Keys
from shardwright.specs.model import LatentAttention, MixtureOfExperts, ModelSpec, MultiHeadAttention

SOFTMAX_TOP_K = 2  # --moe-router-topk


def model_keys(model: ModelSpec) -> dict[str, Any] | None:
    """Return the arguments that build `model`, or None where Megatron-LM's arguments cannot say its architecture."""
    keys = _written(model)
    if keys is None:
        return None
    try:
        back = read_model(Keys({key: value for key, value in keys.items() if value is not None}, model.name))
    except SpecError:
        return None
    return keys if back is not None and _architecture(back) == _architecture(model) else None


def _architecture(model: ModelSpec) -> dict[str, Any]:
    """What costs depend on; how eager PyTorch computes an activation does not reach Megatron's kernels."""
    described = model.model_dump(exclude={"name", "family", "config", "positions"})
    described["learned_positions"] = model.positions > 0
    for run in described["blocks"]:
        run["block"]["ffn"].pop("activation", None)
    return described


def _written(model: ModelSpec) -> dict[str, Any] | None:
    block = model.layer_classes[-1]
    attention, ffn, config = block.attention, block.ffn, model.config
    reach = model.positions or config.get("max_position_embeddings") or config.get("n_positions")
    keys: dict[str, Any] = {
        "num_layers": model.layer_count,
        "hidden_size": model.hidden_size,
        "num_attention_heads": attention.heads,
        "vocab_size": model.vocab_size,
        "max_position_embeddings": reach,
        "position_embedding_type": "learned_absolute" if model.positions else "rope",
        "normalization": {"rmsnorm": "RMSNorm", "layernorm": "LayerNorm"}[block.norm.kind],
        "untie_embeddings_and_output_weights": not model.tied_embeddings,
    }
    if model.rotary:
        theta = config.get("rope_theta") or (config.get("rope_parameters") or {}).get("rope_theta")
        keys["rotary_base"] = int(theta) if theta else None
    dense = [one.ffn for one in model.layer_classes if not isinstance(one.ffn, MixtureOfExperts)]
    keys["ffn_hidden_size"] = dense[0].width if dense else model.config.get("intermediate_size")
    keys["swiglu"] = ffn.gated
    keys["disable_bias_linear"] = not ffn.bias
    if isinstance(attention, LatentAttention):
        keys |= _latent_keys(attention)
    elif isinstance(attention, MultiHeadAttention):
        keys |= _heads_keys(attention, model.hidden_size, has_biases=ffn.bias)
    else:
        return None
    if isinstance(ffn, MixtureOfExperts):
        keys |= _expert_keys(model, ffn)
    return {key: value for key, value in keys.items() if value not in (None, False)}


def _latent_keys(attention: LatentAttention) -> dict[str, Any]:
    return {
        "multi_latent_attention": True,
        "q_lora_rank": attention.query_rank,
        "kv_lora_rank": attention.kv_rank,
        "qk_head_dim": attention.plain_size,
        "qk_pos_emb_head_dim": attention.rotary_size,
        "v_head_dim": attention.value_head_size,
        "qk_layernorm": True,  # of the latents
    }


def _heads_keys(attention: MultiHeadAttention, hidden_size: int, *, has_biases: bool) -> dict[str, Any]:
    grouped = attention.kv_heads != attention.heads
    return {
        "group_query_attention": grouped,
        "num_query_groups": attention.kv_heads if grouped else None,
        "kv_channels": attention.head_size if attention.head_size * attention.heads != hidden_size else None,
        "add_qkv_bias": attention.qkv_bias and not has_biases,
        "qk_layernorm": attention.qk_norm == "per_head",
    }


def _expert_keys(model: ModelSpec, ffn: MixtureOfExperts) -> dict[str, Any]:
    experts = [isinstance(model.layer_classes[kind].ffn, MixtureOfExperts) for kind in model.class_of_layer]
    dense = experts.index(True)
    return {
        "num_experts": ffn.experts,
        "moe_router_topk": ffn.top_k if ffn.top_k != SOFTMAX_TOP_K else None,
        "moe_ffn_hidden_size": ffn.expert_width,
        "moe_shared_expert_intermediate_size": ffn.shared_width or None,
        "moe_layer_freq": f"([0]*{dense}+[1]*{len(experts) - dense})" if dense else None,
    }


def read_model(keys: Keys) -> ModelSpec | None:
    """Return the model that Megatron-LM's arguments build; None where they name none (`--num-layers` is missing).

    Raises:
        SpecError: an architecture that is not modelled, by the name of the argument.
    """
    layers, hidden = keys.count("num_layers", None), keys.count("hidden_size", None)
    heads, vocabulary = keys.count("num_attention_heads", None), keys.count("vocab_size", None)
    padded = keys.count("padded_vocab_size", None)
    read = _Read(keys, layers or 1, hidden or 1, heads or 1)
    if None in (layers, hidden, heads):
        return None
    if (vocabulary or padded) is None:
        raise SpecError(f"{keys.source}: {keys.spelled('vocab_size')} is missing; give it, or --model")
    config = read.config() | {"vocab_size": vocabulary or padded, "tie_word_embeddings": read.tied}
    return model_from_config(config, name=f"megatron-{layers}x{hidden}", source=keys.source)


class _Read:
    """The arguments of an architecture. Each is taken once, so that none is left as unknown."""

    def __init__(self, keys: Keys, layers: int, hidden: int, heads: int) -> None:
        self.keys, self.layers, self.hidden, self.heads = keys, layers, hidden, heads
        self.gated = keys.switch("swiglu")
        gated_width = int(4 * hidden * 2 / 3 / 64) * 64  # as arguments.py has it
        self.width = keys.count("ffn_hidden_size", gated_width if self.gated else 4 * hidden)
        self.reach = keys.count("max_position_embeddings", keys.values.get("seq_length", 2048))
        rotary = keys.switch("use_rotary_position_embeddings")
        kinds = {"rope": "rope", "yarn": "rope", "learned_absolute": "learned"}
        self.positions = keys.one_of("position_embedding_type", kinds, "rope" if rotary else "learned")
        self.norm = keys.one_of("normalization", {"RMSNorm": "rms", "LayerNorm": "layer"}, "layer")
        self.tied = not keys.switch("untie_embeddings_and_output_weights")
        self.bias = not keys.switch("disable_bias_linear")
        self.qkv_bias = keys.switch("add_qkv_bias")
        self.qk_norm = keys.switch("qk_layernorm")
        grouped = keys.switch("group_query_attention")
        groups = keys.count("num_query_groups", 1)
        self.groups = groups if grouped else heads
        self.head_size = keys.count("kv_channels", max(1, hidden // heads))
        self.theta = keys.share("rotary_base", 10000)
        self.experts = keys.count("num_experts", None)
        self.top_k = keys.count("moe_router_topk", SOFTMAX_TOP_K)
        self.expert_width = keys.count("moe_ffn_hidden_size", self.width)
        self.shared_width = keys.count("moe_shared_expert_intermediate_size", 0)
        self.frequency = keys.take("moe_layer_freq", 1)
        self.latent = keys.switch("multi_latent_attention")
        self.latents = {
            "q_lora_rank": keys.count("q_lora_rank", None),
            "kv_lora_rank": keys.count("kv_lora_rank", 32),
            "qk_nope_head_dim": keys.count("qk_head_dim", 128),
            "qk_rope_head_dim": keys.count("qk_pos_emb_head_dim", 64),
            "v_head_dim": keys.count("v_head_dim", 128),
        }

    def config(self) -> dict[str, Any]:
        if self.positions == "learned":
            return self._gpt()
        if self.bias:
            raise self._refuse(
                "disable_bias_linear", "is missing: a rotary model with biases everywhere is not modelled"
            )
        if not self.gated or self.norm != "rms":
            raise self._refuse(
                "swiglu" if not self.gated else "normalization",
                "is not of a model that can be built from arguments alone (those have SwiGLU and RMSNorm)",
            )
        common = {
            "hidden_size": self.hidden,
            "intermediate_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "max_position_embeddings": self.reach,
            "rope_theta": self.theta,
            "hidden_act": "silu",
        }
        if self.latent:
            return common | self._latent()
        common |= {"num_key_value_heads": self.groups, "head_dim": self.head_size}
        if self.experts is None:
            kind = "qwen3" if self.qk_norm else "qwen2" if self.qkv_bias else "llama"
            return common | {"model_type": kind}
        return common | self._mixture()

    def _refuse(self, key: str, why: str) -> SpecError:
        return self.keys.refused(key, f"{why}; give --model")

    def _gpt(self) -> dict[str, Any]:
        plain = {"swiglu": self.gated, "num_experts": self.experts, "multi_latent_attention": self.latent}
        plain |= {"group_query_attention": self.groups != self.heads, "normalization": self.norm != "layer"}
        plain |= {"disable_bias_linear": not self.bias, "qk_layernorm": self.qk_norm}
        plain["kv_channels"] = self.head_size * self.heads != self.hidden
        for key, is_given in plain.items():
            if is_given:
                raise self._refuse(key, "goes with learned positions here, which is not modelled")
        return {
            "model_type": "gpt2",
            "n_embd": self.hidden,
            "n_inner": self.width,
            "n_layer": self.layers,
            "n_head": self.heads,
            "n_positions": self.reach,
            "activation_function": "gelu_new",
        }

    def _latent(self) -> dict[str, Any]:
        if self.experts is None:
            raise self._refuse("multi_latent_attention", "without num_experts is not modelled")
        return self.latents | {
            "model_type": "deepseek_v3",
            "num_key_value_heads": self.heads,
            "n_routed_experts": self.experts,
            "num_experts_per_tok": self.top_k,
            "moe_intermediate_size": self.expert_width,
            "n_shared_experts": self._shared(),
            "first_k_dense_replace": self._dense_layers(),
            "moe_layer_freq": 1,
            "n_group": 1,
            "topk_group": 1,
        }

    def _shared(self) -> int | None:
        if self.shared_width % self.expert_width:
            raise self._refuse(
                "moe_shared_expert_intermediate_size",
                f"{self.shared_width} is no multiple of moe_ffn_hidden_size {self.expert_width}",
            )
        return self.shared_width // self.expert_width or None

    def _dense_layers(self) -> int:
        """The dense layers before those of experts."""
        pattern = _pattern(self.frequency, self.layers)
        if pattern is None:
            raise self._refuse("moe_layer_freq", f"{self.frequency} is not understood; understood: 1, ([0]*3+[1]*58)")
        dense = pattern.index(1) if 1 in pattern else self.layers
        if 0 in pattern[dense:]:
            raise self._refuse("moe_layer_freq", f"{self.frequency} has dense layers behind those of experts")
        return dense

    def _mixture(self) -> dict[str, Any]:
        if self._dense_layers() or self.qkv_bias:
            key = "add_qkv_bias" if self.qkv_bias else "moe_layer_freq"
            raise self._refuse(key, "is not of a mixture that can be built from arguments alone")
        if self.shared_width:
            raise self._refuse("moe_shared_expert_intermediate_size", "without multi_latent_attention is not modelled")
        if not self.qk_norm:
            same = {"num_local_experts": self.experts, "num_experts_per_tok": self.top_k}
            return same | {"model_type": "mixtral", "intermediate_size": self.expert_width}
        return {
            "model_type": "qwen3_moe",
            "num_experts": self.experts,
            "num_experts_per_tok": self.top_k,
            "moe_intermediate_size": self.expert_width,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        }


def _pattern(frequency: Any, layers: int) -> list[int] | None:
    """The layers of experts as 1: of a number N every Nth is dense but the first (moe_layer_freq of transformer_config.py), of
    a list expression what it lists; None where it is neither."""
    text = str(frequency).replace(" ", "")
    if text.isdigit() and int(text) > 0:
        return [int(layer % int(text) == 0) for layer in range(layers)]
    listed: list[int] = []
    if not (text.startswith("(") and text.endswith(")")) and not text.startswith("["):
        return None
    for part in text.strip("()").split("+"):
        symbol, times, count = part.partition("*")
        if symbol not in ("[0]", "[1]") or (times and not count.isdigit()):
            return None
        listed += [int(symbol[1])] * (int(count) if times else 1)
    return listed if len(listed) == layers else None
