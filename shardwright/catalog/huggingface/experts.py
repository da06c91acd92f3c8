"""Decoders with mixtures of experts: Mixtral, Qwen2-MoE, Qwen3-MoE, Qwen3-Next, gpt-oss, DeepSeek-V2 and -V3.

Defaults are those of the configuration class of the same name in transformers 5. Two parts are not counted.
DeepSeek-V3's multi-token-prediction module is not built by transformers. The correction bias of its router is a buffer,
which gets no gradient.
"""

from collections.abc import Callable, Sequence

from shardwright.specs.model import (
    Block,
    FeedForward,
    GatedDelta,
    LatentAttention,
    MixtureOfExperts,
    ModelSpec,
    MultiHeadAttention,
)

from .layers import (
    decoder,
    divide_hidden,
    read_heads,
    read_layer_count,
    read_linear_layers,
    read_qwen_window,
    read_windows,
    with_windows,
)
from .reader import ConfigReader


def read_mixtral(config: ConfigReader) -> ModelSpec:
    hidden_size = config.required_size("hidden_size")
    heads = read_heads(config, hidden_size, heads=32, kv_heads=8)
    window = config.optional_size("sliding_window", default=None)
    ffn = read_experts(config, "num_local_experts", "num_experts", default=8, top_k=2, width=14336)
    block = Block(attention=MultiHeadAttention(**heads._asdict(), window=window), ffn=ffn)
    blocks = [block] * read_layer_count(config)
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=32000, tied=False)


def read_qwen2_moe(config: ConfigReader) -> ModelSpec:
    """Qwen1.5-MoE and Qwen2-MoE: a gated shared expert beside the routed ones."""
    hidden_size = config.required_size("hidden_size")
    heads = read_heads(config, hidden_size, heads=16, kv_heads=16)
    attention = MultiHeadAttention(**heads._asdict(), qkv_bias=config.flag("qkv_bias", default=True))
    experts, top_k = read_expert_counts(config, "num_experts", "num_local_experts", default=60, top_k=4)
    sparse = MixtureOfExperts(
        experts=experts,
        top_k=top_k,
        expert_width=config.size("moe_intermediate_size", default=1408),
        shared_width=config.size("shared_expert_intermediate_size", default=5632, at_least=0),
        shared_gate=True,
    )
    dense = FeedForward(width=config.size("intermediate_size", default=5632), gated=True)
    last = config.size("max_window_layers", default=28, at_least=0)
    windows = read_windows(
        config, read_layer_count(config), read_qwen_window(config), lambda layer: layer % 2 == 0 and layer < last
    )
    blocks = mixed_blocks(attention, windows, sparse, dense, _qwen_sparse(config))
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=151936, tied=False)


def read_qwen3_moe(config: ConfigReader) -> ModelSpec:
    hidden_size = config.required_size("hidden_size")
    heads = read_heads(config, hidden_size, heads=32, kv_heads=4)
    bias = config.flag("attention_bias", default=False)
    attention = MultiHeadAttention(**heads._asdict(), qkv_bias=bias, output_bias=bias, qk_norm="per_head")
    experts, top_k = read_expert_counts(config, "num_experts", "num_local_experts", default=128, top_k=8)
    sparse = MixtureOfExperts(
        experts=experts, top_k=top_k, expert_width=config.size("moe_intermediate_size", default=768)
    )
    dense = FeedForward(width=config.size("intermediate_size", default=6144), gated=True)
    windows = [read_qwen_window(config)] * read_layer_count(config)
    blocks = mixed_blocks(attention, windows, sparse, dense, _qwen_sparse(config))
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=151936, tied=False)


def read_qwen3_next(config: ConfigReader) -> ModelSpec:
    """Qwen3-Next: linear attention in three of four layers, gated attention in the fourth."""
    hidden_size = config.required_size("hidden_size")
    heads = read_heads(config, hidden_size, heads=16, kv_heads=2, head_size=256)
    bias = config.flag("attention_bias", default=False)
    full = MultiHeadAttention(**heads._asdict(), qkv_bias=bias, output_bias=bias, qk_norm="per_head", output_gate=True)
    linear = GatedDelta(
        heads=config.size("linear_num_value_heads", default=32),
        key_heads=config.size("linear_num_key_heads", default=16),
        key_size=config.size("linear_key_head_dim", default=128),
        value_size=config.size("linear_value_head_dim", default=128),
        kernel=config.size("linear_conv_kernel_dim", default=4),
    )
    experts, top_k = read_expert_counts(config, "num_experts", "num_local_experts", default=512, top_k=10)
    sparse = MixtureOfExperts(
        experts=experts,
        top_k=top_k,
        expert_width=config.size("moe_intermediate_size", default=512),
        shared_width=config.size("shared_expert_intermediate_size", default=512, at_least=0),
        shared_gate=True,
    )
    dense = FeedForward(width=config.size("intermediate_size", default=5632), gated=True)
    layers, every = read_layer_count(config), config.size("full_attention_interval", default=4)
    is_linear = read_linear_layers(config, layers, lambda layer: (layer + 1) % every != 0)
    is_sparse = _qwen_sparse(config)
    blocks = [
        Block(attention=linear if is_linear[layer] else full, ffn=sparse if is_sparse(layer) else dense)
        for layer in range(layers)
    ]
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=151936, tied=False)


def read_gpt_oss(config: ConfigReader) -> ModelSpec:
    hidden_size = config.required_size("hidden_size")
    heads = read_heads(config, hidden_size, heads=64, kv_heads=8, head_size=64)
    bias = config.flag("attention_bias", default=True)
    experts, top_k = read_expert_counts(config, "num_local_experts", "num_experts", default=128, top_k=4)
    block = Block(
        attention=MultiHeadAttention(**heads._asdict(), qkv_bias=bias, output_bias=bias, sinks=True),
        ffn=MixtureOfExperts(
            experts=experts,
            top_k=top_k,
            expert_width=config.size("intermediate_size", default=2880),
            bias=True,
            router_bias=True,
            clamped=True,
        ),
    )
    window = config.optional_size("sliding_window", default=128)
    windows = read_windows(config, read_layer_count(config), window, lambda layer: layer % 2 == 0)
    blocks = with_windows(block, windows)
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=201088, tied=False)


def read_deepseek_v2(config: ConfigReader) -> ModelSpec:
    hidden_size = config.required_size("hidden_size")
    attention = read_latent(config, heads=32)
    divide_hidden(config, hidden_size, attention.heads)
    bias = config.flag("mlp_bias", default=False)
    experts = deepseek_experts(config, experts=64, top_k=None, width=1407, shared=2, shared_bias=bias)
    dense = FeedForward(width=config.size("intermediate_size", default=11008), gated=True, bias=bias)
    blocks = deepseek_blocks(config, attention, experts, dense, first_sparse=0)
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=102400, tied=False)


def read_deepseek_v3(config: ConfigReader) -> ModelSpec:
    hidden_size = config.required_size("hidden_size")
    attention = read_latent(config, heads=128)
    experts = deepseek_experts(config, experts=256, top_k=8, width=2048, shared=1)
    dense = FeedForward(width=config.size("intermediate_size", default=18432), gated=True)
    blocks = deepseek_blocks(config, attention, experts, dense, first_sparse=3)
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=129280, tied=False)


def read_latent(config: ConfigReader, *, heads: int) -> LatentAttention:
    """Return multi-head latent attention by DeepSeek's keys."""
    return LatentAttention(
        heads=config.size("num_attention_heads", default=heads),
        query_rank=config.optional_size("q_lora_rank", default=1536),
        kv_rank=config.size("kv_lora_rank", default=512),
        plain_size=config.size("qk_nope_head_dim", default=128),
        rotary_size=config.size("qk_rope_head_dim", default=64),
        value_head_size=config.size("v_head_dim", default=128),
        bias=config.flag("attention_bias", default=False),
    )


def deepseek_experts(
    config: ConfigReader, *, experts: int, top_k: int | None, width: int, shared: int, shared_bias: bool = False
) -> MixtureOfExperts | None:
    """Return DeepSeek's experts; the shared ones are one feed-forward, as wide as all of them together, and null means
    none.

    Returns None where the routed experts are null, because all layers are then dense. Both nulls are those of
    DeepSeek's own code (modeling_deepseek.py, beside its checkpoints); transformers accepts only numbers.
    """
    config.refuse("moe_layer_freq", built=1, default=1)
    spellings = ("n_routed_experts", "num_experts", "num_local_experts")
    if config.is_null(*spellings):
        return None
    routed, chosen = read_expert_counts(config, *spellings, default=experts, top_k=top_k)
    expert_width = config.size("moe_intermediate_size", default=width)
    shared_width = expert_width * (config.optional_size("n_shared_experts", default=shared, at_least=0) or 0)
    return MixtureOfExperts(
        experts=routed, top_k=chosen, expert_width=expert_width, shared_width=shared_width, shared_bias=shared_bias
    )


def deepseek_blocks(
    config: ConfigReader,
    attention: MultiHeadAttention | LatentAttention,
    experts: MixtureOfExperts | None,
    dense: FeedForward,
    *,
    first_sparse: int,
) -> list[Block]:
    """Return one block for each layer, with experts from `first_k_dense_replace` on, if there are any."""
    first = config.size("first_k_dense_replace", default=first_sparse, at_least=0)
    windows = [None] * read_layer_count(config)
    return mixed_blocks(attention, windows, experts or dense, dense, lambda layer: layer >= first)


def read_experts(config: ConfigReader, *spellings: str, default: int, top_k: int, width: int) -> MixtureOfExperts:
    """Return routed experts alone, as wide as `intermediate_size`.

    Raises:
        SpecError: a token would use more than there are.
    """
    experts, chosen = read_expert_counts(config, *spellings, default=default, top_k=top_k)
    return MixtureOfExperts(experts=experts, top_k=chosen, expert_width=config.size("intermediate_size", default=width))


def read_expert_counts(config: ConfigReader, *spellings: str, default: int, top_k: int | None) -> tuple[int, int]:
    """Return the number of experts, and the number of them that a token uses.

    Raises:
        SpecError: a token would use more than there are.
    """
    experts = config.size(*spellings, default=default)
    chosen = (
        config.required_size("num_experts_per_tok")
        if top_k is None
        else config.size("num_experts_per_tok", default=top_k)
    )
    if chosen > experts:
        raise config.error(f"num_experts_per_tok {chosen} is more than the {experts} experts of {spellings[0]}")
    return experts, chosen


def _qwen_sparse(config: ConfigReader) -> Callable[[int], bool]:
    """Every `decoder_sparse_step`-th layer has experts, except those in `mlp_only_layers`."""
    step = config.size("decoder_sparse_step", default=1)
    dense_layers = config.indices("mlp_only_layers")
    return lambda layer: layer not in dense_layers and (layer + 1) % step == 0


def mixed_blocks(
    attention: MultiHeadAttention | LatentAttention,
    windows: Sequence[int | None],
    sparse: MixtureOfExperts | FeedForward,
    dense: FeedForward,
    is_sparse: Callable[[int], bool],
) -> list[Block]:
    """Return one block for each layer, with experts where `is_sparse(layer)`."""
    sparse_blocks = with_windows(Block(attention=attention, ffn=sparse), windows)
    dense_blocks = with_windows(Block(attention=attention, ffn=dense), windows)
    return [sparse_blocks[layer] if is_sparse(layer) else dense_blocks[layer] for layer in range(len(windows))]
