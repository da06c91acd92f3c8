"""Dense decoders with RMS norms and gated feed-forwards: Llama, Mistral, Qwen2, Qwen3, Phi-3, the Gemmas, OLMo-2 and -3, GLM-4,
SmolLM3, Granite, Seed-OSS and ERNIE-4.5.

Defaults are those of the configuration class of the same name in transformers 5.
"""

from collections.abc import Sequence

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
    block = _four_norm_block(config, hidden_size, qk_norm=False)
    capped = block.model_copy(update={"attention": block.attention.model_copy(update={"capped": True})})
    blocks = with_windows(capped, windows)
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=256000, tied=True)


def read_gemma3(config: ConfigReader) -> ModelSpec:
    """Gemma 3's text model."""
    hidden_size = config.required_size("hidden_size")
    window = config.optional_size("sliding_window", default=4096)
    pattern = config.size("sliding_window_pattern", default=6)
    windows = read_windows(config, read_layer_count(config), window, lambda layer: (layer + 1) % pattern != 0)
    blocks = with_windows(_four_norm_block(config, hidden_size, qk_norm=True), windows)
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=262208, tied=True)


def read_olmo2(config: ConfigReader) -> ModelSpec:
    """OLMo-2: queries and keys are normalised as a whole, and norms follow attention and feed-forward."""
    return _olmo(config, [None] * read_layer_count(config))


def read_olmo3(config: ConfigReader) -> ModelSpec:
    """OLMo-3: as OLMo-2, with a window in three of four layers."""
    window = config.optional_size("sliding_window", default=4096)
    return _olmo(config, read_windows(config, read_layer_count(config), window, lambda layer: (layer + 1) % 4 != 0))


def _olmo(config: ConfigReader, windows: Sequence[int | None]) -> ModelSpec:
    hidden_size = config.required_size("hidden_size")
    bias = config.flag("attention_bias", default=False)
    heads = read_heads(config, hidden_size, heads=32)
    attention = MultiHeadAttention(**heads._asdict(), qkv_bias=bias, output_bias=bias, qk_norm="whole")
    blocks = with_windows(Block(attention=attention, ffn=_gated(config, 11008)), windows)
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=50304, tied=False)


def read_glm4(config: ConfigReader) -> ModelSpec:
    """GLM-4 of 2025 (0414): norms on the input and the output of both halves of a layer."""
    hidden_size = config.required_size("hidden_size")
    heads = read_heads(config, hidden_size, heads=32, kv_heads=2, head_size=128)
    attention = MultiHeadAttention(**heads._asdict(), qkv_bias=config.flag("attention_bias", default=True))
    block = Block(attention=attention, ffn=_gated(config, 13696), norm_count=4)
    return decoder(config, [block] * read_layer_count(config), hidden_size=hidden_size, vocab_size=151552, tied=False)


def read_smollm3(config: ConfigReader) -> ModelSpec:
    """SmolLM3. Queries and keys of some layers are not rotated, which the cost model does not tell apart."""
    hidden_size = config.required_size("hidden_size")
    heads = read_heads(config, hidden_size, heads=16, kv_heads=4)
    bias = config.flag("attention_bias", default=False)
    attention = MultiHeadAttention(**heads._asdict(), qkv_bias=bias, output_bias=bias)
    ffn = _gated(config, 11008, bias=config.flag("mlp_bias", default=False))
    slides = config.flag("use_sliding_window", default=False)
    window = config.optional_size("sliding_window", default=None) if slides else None
    rotated, every = config.numbers("no_rope_layers"), config.size("no_rope_layer_interval", default=4)

    def is_rotated(layer: int) -> bool:
        return bool(rotated[layer]) if layer < len(rotated) else (layer + 1) % every != 0

    windows = read_windows(config, read_layer_count(config), window, lambda layer: slides and not is_rotated(layer))
    blocks = with_windows(Block(attention=attention, ffn=ffn), windows)
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=128256, tied=True)


def read_granite(config: ConfigReader) -> ModelSpec:
    """Granite: a Llama whose embedding, residuals, scores and logits are scaled by constants."""
    hidden_size = config.required_size("hidden_size")
    bias = config.flag("attention_bias", default=False)
    heads = read_heads(config, hidden_size, heads=32)
    attention = MultiHeadAttention(**heads._asdict(), qkv_bias=bias, output_bias=bias)
    ffn = _gated(config, 11008, bias=config.flag("mlp_bias", default=False))
    blocks = [Block(attention=attention, ffn=ffn)] * read_layer_count(config)
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=32000, tied=False)


def read_seed_oss(config: ConfigReader) -> ModelSpec:
    hidden_size = config.required_size("hidden_size")
    heads = read_heads(config, hidden_size, heads=80, kv_heads=8, head_size=128)
    attention = MultiHeadAttention(
        **heads._asdict(),
        qkv_bias=config.flag("attention_bias", default=True),
        output_bias=config.flag("attention_out_bias", default=False),
    )
    ffn = _gated(config, 27648, bias=config.flag("mlp_bias", default=False))
    blocks = [Block(attention=attention, ffn=ffn)] * read_layer_count(config)
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=155136, tied=False)


def read_ernie(config: ConfigReader) -> ModelSpec:
    """ERNIE-4.5 without experts."""
    hidden_size = config.required_size("hidden_size")
    heads = read_heads(config, hidden_size, heads=16, kv_heads=2, head_size=128)
    bias = config.flag("use_bias", default=False)
    attention = MultiHeadAttention(**heads._asdict(), qkv_bias=bias, output_bias=bias)
    blocks = [Block(attention=attention, ffn=_gated(config, 3072, bias=bias))] * read_layer_count(config)
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=103424, tied=True)


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
