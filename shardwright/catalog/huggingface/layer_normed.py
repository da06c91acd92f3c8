"""Decoders with layer norms: GPT-2, GPT-NeoX, OPT, BLOOM, MPT, Falcon and Phi, whose feed-forwards are plain, and Cohere.

Defaults are those of the configuration class of the same name in transformers 5.
"""

from collections.abc import Sequence
from typing import Literal

from shardwright.specs.model import Block, FeedForward, ModelSpec, MultiHeadAttention, Norm

from .layers import (
    Ends,
    decoder,
    divide_hidden,
    read_activation,
    read_heads,
    read_layer_count,
    read_windows,
    with_windows,
)
from .reader import ConfigReader

_LAYER_NORM = Norm(kind="layernorm", bias=True)


def read_gpt2(config: ConfigReader) -> ModelSpec:
    hidden_size = config.required_size("n_embd", "hidden_size")
    heads = config.size("n_head", "num_attention_heads", default=12)
    layers = read_layer_count(config, "n_layer", "num_hidden_layers")
    attention = _multi_head(config, hidden_size, heads, heads, bias=True)
    ffn = FeedForward(
        width=config.optional_size("n_inner", default=None) or 4 * hidden_size,
        gated=False,
        activation=read_activation(config, "activation_function", default="gelu_new"),
        bias=True,
    )
    positions = config.size("n_positions", "max_position_embeddings", default=1024)
    ends = Ends(_LAYER_NORM, positions=positions)
    blocks = [Block(attention=attention, ffn=ffn, norm=_LAYER_NORM)] * layers
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=50257, tied=True, ends=ends)


def read_gpt_neox(config: ConfigReader) -> ModelSpec:
    hidden_size = config.required_size("hidden_size")
    heads = config.size("num_attention_heads", default=64)
    bias = config.flag("attention_bias", default=True)
    block = Block(
        attention=_multi_head(config, hidden_size, heads, heads, bias=bias),
        ffn=FeedForward(
            width=config.size("intermediate_size", default=24576),
            gated=False,
            activation=read_activation(config, "hidden_act", default="gelu"),
            bias=True,
        ),
        norm=_LAYER_NORM,
        parallel=config.flag("use_parallel_residual", default=True),
    )
    blocks = [block] * read_layer_count(config)
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=50432, tied=False, ends=Ends(_LAYER_NORM))


def read_opt(config: ConfigReader) -> ModelSpec:
    """OPT. Only the 350M model normalises after each half, has no final norm, and projects a narrower embedding."""
    hidden_size = config.required_size("hidden_size")
    heads = config.size("num_attention_heads", default=12)
    bias = config.flag("enable_bias", default=True)
    affine = config.flag("layer_norm_elementwise_affine", default=True)
    norm = Norm(kind="layernorm", weight=affine, bias=affine)
    block = Block(
        attention=_multi_head(config, hidden_size, heads, heads, bias=bias),
        ffn=FeedForward(
            width=config.size("ffn_dim", default=3072),
            gated=False,
            activation=read_activation(config, "activation_function", default="relu"),
            bias=bias,
        ),
        norm=norm,
    )
    has_final_norm = config.flag("do_layer_norm_before", default=True) and not config.flag(
        "_remove_final_layer_norm", default=False
    )
    embedding_size = config.optional_size("word_embed_proj_dim", default=None)
    ends = Ends(
        final_norm=norm if has_final_norm else None,
        positions=config.size("max_position_embeddings", default=2048),
        position_padding=2,
        embedding_size=None if embedding_size == hidden_size else embedding_size,
    )
    blocks = [block] * read_layer_count(config)
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=50272, tied=True, ends=ends)


def read_bloom(config: ConfigReader) -> ModelSpec:
    hidden_size = config.required_size("hidden_size", "n_embed")
    heads = config.size("n_head", "num_attention_heads", default=8)
    layers = read_layer_count(config, "n_layer", "num_hidden_layers")
    block = Block(
        attention=_multi_head(config, hidden_size, heads, heads, bias=True),
        ffn=FeedForward(width=4 * hidden_size, gated=False, bias=True),
        norm=_LAYER_NORM,
    )
    ends = Ends(_LAYER_NORM, embedding_norm=True)
    return decoder(config, [block] * layers, hidden_size=hidden_size, vocab_size=250880, tied=True, ends=ends)


def read_mpt(config: ConfigReader) -> ModelSpec:
    """MPT as transformers builds it, whatever the other keys say: ALiBi, no biases, four times wider feed-forwards.

    Raises:
        SpecError: a key asks for something else. The original code honours it, and transformers ignores it.
    """
    config.refuse("expansion_ratio", built=4, default=4)
    config.refuse("no_bias", built=True, default=True)
    attention_config = config.section("attn_config")
    attention_config.refuse("attn_type", built="multihead_attention", default="multihead_attention")
    attention_config.refuse("qk_ln", built=False, default=False)
    attention_config.refuse("alibi", built=True, default=True)
    hidden_size = config.required_size("d_model", "hidden_size")
    heads = config.size("n_heads", "num_attention_heads", default=16)
    layers = read_layer_count(config, "n_layers", "num_hidden_layers")
    norm = Norm(kind="layernorm")
    block = Block(
        attention=_multi_head(config, hidden_size, heads, heads, bias=False),
        ffn=FeedForward(width=4 * hidden_size, gated=False),
        norm=norm,
    )
    return decoder(config, [block] * layers, hidden_size=hidden_size, vocab_size=50368, tied=True, ends=Ends(norm))


def read_falcon(config: ConfigReader) -> ModelSpec:
    """Falcon: multi-query (7B), grouped (40B, 180B: `new_decoder_architecture`) or plain heads (RW, with ALiBi)."""
    hidden_size = config.required_size("hidden_size", "n_embed")
    heads = config.size("num_attention_heads", default=71)
    kv_heads = config.optional_size("num_kv_heads", default=None) or heads
    grouped = config.flag("new_decoder_architecture", default=False)
    if not grouped:
        kv_heads = 1 if config.flag("multi_query", default=True) else heads
    parallel = config.flag("parallel_attn", default=True)
    parallel_norms = config.optional_size("num_ln_in_parallel_attn", default=None) or (2 if grouped else 1)
    bias = config.flag("bias", default=False)
    block = Block(
        attention=_multi_head(config, hidden_size, heads, kv_heads, bias=bias),
        ffn=FeedForward(
            width=config.optional_size("ffn_hidden_size", default=None) or 4 * hidden_size,
            gated=False,
            activation=read_activation(config, "activation", default="gelu"),
            bias=bias,
        ),
        norm=_LAYER_NORM,
        norm_count=2 if parallel_norms == 2 or not parallel else 1,
        parallel=parallel or grouped,
    )
    blocks = [block] * read_layer_count(config)
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=65024, tied=True, ends=Ends(_LAYER_NORM))


def read_phi(config: ConfigReader) -> ModelSpec:
    """Phi-1, 1.5 and 2: one norm feeds attention and feed-forward in parallel, and the head has a bias."""
    hidden_size = config.required_size("hidden_size")
    heads = read_heads(config, hidden_size, heads=32)
    normed = config.flag("qk_layernorm", default=False)
    block = Block(
        attention=MultiHeadAttention(
            **heads._asdict(),
            qkv_bias=True,
            output_bias=True,
            qk_norm="per_head" if normed else "none",
            qk_norm_bias=normed,
        ),
        ffn=FeedForward(
            width=config.size("intermediate_size", default=8192),
            gated=False,
            activation=read_activation(config, "hidden_act", default="gelu_new"),
            bias=True,
        ),
        norm=_LAYER_NORM,
        norm_count=1,
        parallel=True,
    )
    ends = Ends(_LAYER_NORM, head_bias=True)
    blocks = [block] * read_layer_count(config)
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=51200, tied=False, ends=ends)


def read_cohere(config: ConfigReader) -> ModelSpec:
    """Command R and R+: one norm without a bias feeds attention and a gated feed-forward side by side."""
    normed = config.flag("use_qk_norm", default=False)
    return _cohere(config, [None] * read_layer_count(config), qk_norm="each_head" if normed else "none")


def read_cohere2(config: ConfigReader) -> ModelSpec:
    """Command R7B and A: the same, with a window in three of four layers."""
    window = config.optional_size("sliding_window", default=4096)
    pattern = config.size("sliding_window_pattern", default=4)
    windows = read_windows(config, read_layer_count(config), window, lambda layer: (layer + 1) % pattern != 0)
    return _cohere(config, windows, qk_norm="none")


def _cohere(config: ConfigReader, windows: Sequence[int | None], *, qk_norm: Literal["none", "each_head"]) -> ModelSpec:
    hidden_size = config.required_size("hidden_size")
    bias = config.flag("attention_bias", default=False)
    heads = read_heads(config, hidden_size, heads=64)
    norm = Norm(kind="layernorm", written_out=True)
    block = Block(
        attention=MultiHeadAttention(**heads._asdict(), qkv_bias=bias, output_bias=bias, qk_norm=qk_norm),
        ffn=FeedForward(width=config.size("intermediate_size", default=22528), gated=True),
        norm=norm,
        norm_count=1,
        parallel=True,
    )
    blocks = with_windows(block, windows)
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=256000, tied=True, ends=Ends(norm))


def _multi_head(config: ConfigReader, hidden_size: int, heads: int, kv_heads: int, *, bias: bool) -> MultiHeadAttention:
    head_size = divide_hidden(config, hidden_size, heads)
    if heads % kv_heads:
        raise config.error(f"num_kv_heads {kv_heads} must divide num_attention_heads {heads}")
    return MultiHeadAttention(heads=heads, kv_heads=kv_heads, head_size=head_size, qkv_bias=bias, output_bias=bias)
