"""Dense decoders with RMS norms and gated feed-forwards: Llama, Mistral, Qwen2, Qwen3, Phi-3 and the Gemmas.

Defaults are those of the configuration class of the same name in transformers 5.
"""

from shardwright.specs.model import Block, FeedForward, ModelSpec, MultiHeadAttention

from .layers import decoder, read_heads, read_layer_count, read_qwen_window, read_windows, with_windows
from .reader import ConfigReader


def read_llama(config: ConfigReader) -> ModelSpec:
    hidden_size = config.required_size("hidden_size")
    bias = config.flag("attention_bias", default=False)
    heads = read_heads(config, hidden_size, heads=32, even_split=True)
    attention = MultiHeadAttention(**heads._asdict(), qkv_bias=bias, output_bias=bias)
    block = Block(attention=attention, ffn=_gated(config, 11008, bias=config.flag("mlp_bias", default=False)))
    blocks = [block] * read_layer_count(config)
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=32000, tied=False)


def read_mistral(config: ConfigReader) -> ModelSpec:
    hidden_size = config.required_size("hidden_size")
    heads = read_heads(config, hidden_size, heads=32, kv_heads=8)
    window = config.optional_size("sliding_window", default=4096)
    attention = MultiHeadAttention(**heads._asdict(), window=window)
    blocks = [Block(attention=attention, ffn=_gated(config, 14336))] * read_layer_count(config)
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=32000, tied=False)


def read_phi3(config: ConfigReader) -> ModelSpec:
    hidden_size = config.required_size("hidden_size")
    heads = read_heads(config, hidden_size, heads=32)
    window = config.optional_size("sliding_window", default=None)
    attention = MultiHeadAttention(**heads._asdict(), window=window)
    blocks = [Block(attention=attention, ffn=_gated(config, 8192))] * read_layer_count(config)
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=32064, tied=False)


def read_qwen2(config: ConfigReader) -> ModelSpec:
    """Qwen2 and Qwen2.5."""
    hidden_size = config.required_size("hidden_size")
    heads = read_heads(config, hidden_size, heads=32, kv_heads=32)
    attention = MultiHeadAttention(**heads._asdict(), qkv_bias=True)
    blocks = with_windows(Block(attention=attention, ffn=_gated(config, 22016)), _qwen_windows(config))
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=151936, tied=False)


def read_qwen3(config: ConfigReader) -> ModelSpec:
    hidden_size = config.required_size("hidden_size")
    heads = read_heads(config, hidden_size, heads=32, kv_heads=32, head_size=128)
    bias = config.flag("attention_bias", default=False)
    attention = MultiHeadAttention(**heads._asdict(), qkv_bias=bias, output_bias=bias, qk_norm="per_head")
    blocks = with_windows(Block(attention=attention, ffn=_gated(config, 22016)), _qwen_windows(config))
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=151936, tied=False)


def _qwen_windows(config: ConfigReader) -> tuple[int | None, ...]:
    first = config.size("max_window_layers", default=28, at_least=0)
    return read_windows(config, read_layer_count(config), read_qwen_window(config), lambda layer: layer >= first)


def read_gemma(config: ConfigReader) -> ModelSpec:
    hidden_size = config.required_size("hidden_size")
    heads = read_heads(config, hidden_size, heads=16, kv_heads=16, head_size=256)
    bias = config.flag("attention_bias", default=False)
    attention = MultiHeadAttention(**heads._asdict(), qkv_bias=bias, output_bias=bias)
    blocks = [Block(attention=attention, ffn=_gated(config, 24576))] * read_layer_count(config)
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=256000, tied=True)


def read_gemma2(config: ConfigReader) -> ModelSpec:
    hidden_size = config.required_size("hidden_size")
    window = config.optional_size("sliding_window", default=4096)
    windows = read_windows(config, read_layer_count(config), window, lambda layer: layer % 2 == 0)
    blocks = with_windows(_four_norm_block(config, hidden_size, qk_norm=False), windows)
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=256000, tied=True)


def read_gemma3(config: ConfigReader) -> ModelSpec:
    """Gemma 3's text model."""
    hidden_size = config.required_size("hidden_size")
    window = config.optional_size("sliding_window", default=4096)
    pattern = config.size("sliding_window_pattern", default=6)
    windows = read_windows(config, read_layer_count(config), window, lambda layer: (layer + 1) % pattern != 0)
    blocks = with_windows(_four_norm_block(config, hidden_size, qk_norm=True), windows)
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=262208, tied=True)


def _four_norm_block(config: ConfigReader, hidden_size: int, *, qk_norm: bool) -> Block:
    """A block of Gemma 2 and 3, with norms on the input and the output of both halves of a layer."""
    heads = read_heads(config, hidden_size, heads=8, kv_heads=4, head_size=256, even_split=True)
    bias = config.flag("attention_bias", default=False)
    attention = MultiHeadAttention(
        **heads._asdict(), qkv_bias=bias, output_bias=bias, qk_norm="per_head" if qk_norm else "none"
    )
    return Block(attention=attention, ffn=_gated(config, 9216), norm_count=4)


def _gated(config: ConfigReader, default: int, *, bias: bool = False) -> FeedForward:
    return FeedForward(width=config.size("intermediate_size", default=default), gated=True, bias=bias)
