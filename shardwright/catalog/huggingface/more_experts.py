"""More decoders with mixtures of experts: OLMoE, Granite-MoE, Phi-3.5-MoE, MiniMax-M2, GLM-4.5, ERNIE-4.5, Llama-4 and LongCat-Flash.

Defaults are those of the configuration class of the same name in transformers 5. As in `experts.py`, modules for the prediction of
several tokens and correction biases that are buffers are not counted.
"""

from shardwright.specs.model import Block, FeedForward, MixtureOfExperts, ModelSpec, MultiHeadAttention, Norm

from .experts import deepseek_blocks, deepseek_experts, mixed_blocks, read_expert_counts, read_experts, read_latent
from .layers import CHUNKED, Ends, decoder, read_heads, read_layer_count, read_windows
from .reader import MOST_LAYERS, ConfigReader

_LAYER_NORM = Norm(kind="layernorm", bias=True)


def read_olmoe(config: ConfigReader) -> ModelSpec:
    """OLMoE: queries and keys are normalised as a whole."""
    hidden_size = config.required_size("hidden_size")
    heads = read_heads(config, hidden_size, heads=16)
    bias = config.flag("attention_bias", default=False)
    attention = MultiHeadAttention(**heads._asdict(), qkv_bias=bias, output_bias=bias, qk_norm="whole")
    ffn = read_experts(config, "num_experts", "num_local_experts", default=64, top_k=8, width=2048)
    block = Block(attention=attention, ffn=ffn)
    blocks = [block] * read_layer_count(config)
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=50304, tied=False)


def read_granite_moe(config: ConfigReader) -> ModelSpec:
    hidden_size = config.required_size("hidden_size")
    heads = read_heads(config, hidden_size, heads=32)
    bias = config.flag("attention_bias", default=False)
    ffn = read_experts(config, "num_local_experts", "num_experts", default=8, top_k=2, width=11008)
    block = Block(attention=MultiHeadAttention(**heads._asdict(), qkv_bias=bias, output_bias=bias), ffn=ffn)
    blocks = [block] * read_layer_count(config)
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=32000, tied=False)


def read_phimoe(config: ConfigReader) -> ModelSpec:
    """Phi-3.5-MoE, with layer norms."""
    hidden_size = config.required_size("hidden_size")
    heads = read_heads(config, hidden_size, heads=32, kv_heads=8)
    bias = config.flag("attention_bias", default=False)
    window = config.optional_size("sliding_window", default=None)
    attention = MultiHeadAttention(**heads._asdict(), qkv_bias=bias, output_bias=bias, window=window)
    ffn = read_experts(config, "num_local_experts", "num_experts", default=16, top_k=2, width=6400)
    block = Block(attention=attention, ffn=ffn, norm=_LAYER_NORM)
    ends = Ends(_LAYER_NORM, head_bias=config.flag("lm_head_bias", default=False))
    blocks = [block] * read_layer_count(config)
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=32064, tied=False, ends=ends)


def read_minimax_m2(config: ConfigReader) -> ModelSpec:
    """MiniMax-M2: queries and keys are normalised as a whole."""
    hidden_size = config.required_size("hidden_size")
    heads = read_heads(config, hidden_size, heads=48, kv_heads=8, head_size=128)
    ffn = read_experts(config, "num_local_experts", "num_experts", default=256, top_k=8, width=1536)
    block = Block(attention=MultiHeadAttention(**heads._asdict(), qk_norm="whole"), ffn=ffn)
    blocks = [block] * read_layer_count(config)
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=200064, tied=False)


def read_glm4_moe(config: ConfigReader) -> ModelSpec:
    """GLM-4.5: DeepSeek's experts behind attention with groups of heads."""
    hidden_size = config.required_size("hidden_size")
    heads = read_heads(config, hidden_size, heads=96, kv_heads=8)
    attention = MultiHeadAttention(
        **heads._asdict(),
        qkv_bias=config.flag("attention_bias", default=False),
        qk_norm="per_head" if config.flag("use_qk_norm", default=False) else "none",
    )
    experts = deepseek_experts(config, experts=128, top_k=8, width=1408, shared=1)
    dense = FeedForward(width=config.size("intermediate_size", default=10944), gated=True)
    blocks = deepseek_blocks(config, attention, experts, dense, first_sparse=1)
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=151552, tied=False)


def read_ernie_moe(config: ConfigReader) -> ModelSpec:
    """ERNIE-4.5 with experts. The correction bias of its router is a parameter, though it gets no gradient."""
    hidden_size = config.required_size("hidden_size")
    heads = read_heads(config, hidden_size, heads=20, kv_heads=4)
    bias = config.flag("use_bias", default=False)
    attention = MultiHeadAttention(**heads._asdict(), qkv_bias=bias, output_bias=bias)
    experts = config.size("moe_num_experts", "num_experts", "n_routed_experts", "num_local_experts", default=64)
    top_k = config.size("moe_k", "num_experts_per_tok", default=6)
    width = config.size("moe_intermediate_size", default=1536)
    shared = config.size("moe_num_shared_experts", "n_shared_experts", default=2, at_least=0)
    sparse = MixtureOfExperts(
        experts=experts,
        top_k=top_k,
        expert_width=width,
        shared_width=shared * width,
        shared_bias=bias,
        router_bias=True,
    )
    dense = FeedForward(width=config.size("intermediate_size", default=12288), gated=True, bias=bias)
    layers = read_layer_count(config)
    first = config.size("moe_layer_start_index", default=1, at_least=0)
    last = config.integer("moe_layer_end_index", default=-1)
    every = config.size("moe_layer_interval", default=1)
    last = layers - 1 if last == -1 else last
    blocks = mixed_blocks(
        attention, [None] * layers, sparse, dense, lambda layer: (layer + 1) % every == 0 and first <= layer <= last
    )
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=103424, tied=True, ends=Ends(head_bias=bias))


def read_llama4(config: ConfigReader) -> ModelSpec:
    """Llama-4's text model: one routed and one shared expert a token.

    Three of four layers attend within chunks. They are counted as a window of a chunk, an upper bound: within a chunk a token
    sees half of it on average.
    """
    hidden_size = config.required_size("hidden_size")
    heads = read_heads(config, hidden_size, heads=40, kv_heads=8, head_size=128)
    bias = config.flag("attention_bias", default=False)
    attention = MultiHeadAttention(**heads._asdict(), qkv_bias=bias, output_bias=bias)
    experts, top_k = read_expert_counts(config, "num_local_experts", "num_experts", default=16, top_k=1)
    width = config.size("intermediate_size", default=8192)
    sparse = MixtureOfExperts(experts=experts, top_k=top_k, expert_width=width, shared_width=width)
    dense = FeedForward(width=config.size("intermediate_size_mlp", default=16384), gated=True)
    layers, every = read_layer_count(config), config.size("interleave_moe_layer_step", default=1)
    sparse_layers = config.indices("moe_layers") or frozenset(range(every - 1, layers, every))
    blocks = mixed_blocks(attention, _chunks(config, layers), sparse, dense, lambda layer: layer in sparse_layers)
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=202048, tied=False)


def read_longcat_flash(config: ConfigReader) -> ModelSpec:
    """LongCat-Flash: a layer has latent attention and a feed-forward twice, and experts around the second half, of which some return
    the token itself. transformers counts its halves as hidden layers; one of its decoder layers is a layer here."""
    config.refuse("zero_expert_type", built="identity", default="identity")
    hidden_size = config.required_size("hidden_size")
    width = config.size("ffn_hidden_size", "intermediate_size", default=12288)
    sparse = MixtureOfExperts(
        experts=config.size("n_routed_experts", "num_local_experts", default=512),
        top_k=config.size("moe_topk", "num_experts_per_tok", default=12),
        expert_width=config.size("expert_ffn_hidden_size", "moe_intermediate_size", default=2048),
        shared_width=width,
        router_bias=config.flag("router_bias", default=False),
        zero_experts=config.optional_size("zero_expert_num", default=256, at_least=0) or 0,
    )
    block = Block(attention=read_latent(config, heads=64), ffn=sparse, shortcut=FeedForward(width=width, gated=True))
    blocks = [block] * _double_layers(config)
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=131072, tied=False)


def _double_layers(config: ConfigReader) -> int:
    """Return `num_layers`, or half of `num_hidden_layers`, which counts halves."""
    layers = config.optional_size("num_layers", default=None, at_most=MOST_LAYERS)
    if layers is not None:
        return layers
    halves = config.required_size("num_hidden_layers", at_most=2 * MOST_LAYERS)
    if halves % 2:
        raise config.error(
            f"'num_hidden_layers' is {halves}: a layer has two halves; give 'num_layers', or an even number"
        )
    return halves // 2


def _chunks(config: ConfigReader, layers: int) -> tuple[int | None, ...]:
    chunk = config.optional_size("attention_chunk_size", default=8192)
    rotated, every = config.numbers("no_rope_layers"), config.size("no_rope_layer_interval", default=4)
    if rotated and len(rotated) != layers:
        raise config.error(f"'no_rope_layers' names {len(rotated)} layers; num_hidden_layers is {layers}")
    return read_windows(
        config,
        layers,
        chunk,
        lambda layer: bool(rotated[layer]) if rotated else (layer + 1) % every != 0,
        sliding=CHUNKED,
    )
