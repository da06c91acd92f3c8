"""Decoders with recurrent layers beside attention: Nemotron-H, Bamba, Granite 4.0 and MiniMax-01.

Defaults are those of the configuration class of the same name in transformers 5. Multi-token-prediction layers of Nemotron-H are
not counted, as transformers does not build them.
"""

from collections.abc import Sequence

from shardwright.specs.model import (
    NO_FEED_FORWARD,
    Block,
    FeedForward,
    Lightning,
    Mamba2,
    MixtureOfExperts,
    ModelSpec,
    MultiHeadAttention,
    NoAttention,
)

from .experts import read_expert_counts, read_experts
from .layers import FULL, LINEAR, Heads, decoder, read_heads, read_layer_count
from .reader import MOST_LAYERS, ConfigReader

_MLP, _EXPERTS = "mlp", "moe"
_OLD_NAMES = {"mamba": LINEAR, "attention": FULL}
_LETTERS = {"M": LINEAR, "*": FULL, "-": _MLP, "E": _EXPERTS}


def read_nemotron_h(config: ConfigReader) -> ModelSpec:
    """Nemotron-H and Nemotron 3: each layer is one of Mamba-2, attention, a feed-forward or experts, behind one norm."""
    hidden_size = config.required_size("hidden_size")
    heads = read_heads(config, hidden_size, heads=32, kv_heads=8, head_size=128)
    attention = MultiHeadAttention(**heads._asdict())
    mamba = Mamba2(
        heads=config.size("mamba_num_heads", default=128),
        key_heads=config.size("n_groups", "mamba_n_groups", default=8),
        key_size=config.size("ssm_state_size", default=128),
        value_size=config.size("mamba_head_dim", default=64),
        kernel=config.size("conv_kernel", "mamba_d_conv", default=4),
        chunk=config.size("chunk_size", "mamba_chunk_size", default=128),
        convolution_bias=config.flag("use_conv_bias", "mamba_conv_bias", default=True),
        bias=config.flag("use_bias", default=False),
    )
    bias = config.flag("mlp_bias", default=False)
    width = config.size("intermediate_size", default=21504)
    dense = FeedForward(width=width, gated=False, bias=bias)
    by_kind = {
        LINEAR: Block(attention=mamba, ffn=NO_FEED_FORWARD, norm_count=1),
        FULL: Block(attention=attention, ffn=NO_FEED_FORWARD, norm_count=1),
        _MLP: Block(attention=NoAttention(), ffn=dense, norm_count=1),
        _EXPERTS: Block(attention=NoAttention(), ffn=_nemotron_experts(config, bias=bias), norm_count=1),
    }
    blocks = [by_kind[kind] for kind in _nemotron_layers(config)]
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=131072, tied=False)


def _nemotron_experts(config: ConfigReader, *, bias: bool) -> MixtureOfExperts:
    if config.optional_size("moe_latent_size", default=None) is not None:
        raise config.error(
            f"'moe_latent_size' is {config.config['moe_latent_size']}: experts behind a latent are not supported; only those that read "
            "the hidden state; remove the key if these do"
        )
    experts, top_k = read_expert_counts(config, "n_routed_experts", "num_local_experts", default=8, top_k=2)
    return MixtureOfExperts(
        experts=experts,
        top_k=top_k,
        expert_width=config.size("moe_intermediate_size", default=7688),
        gated=False,
        shared_width=config.size("moe_shared_expert_intermediate_size", default=7688),
        shared_bias=bias,
    )


def _nemotron_layers(config: ConfigReader) -> list[str]:
    """Return the kind of each layer, from a list of words or a pattern with one letter each.

    transformers ignores the number of layers beside them, and has four layers without them.
    """
    config.optional_size("num_hidden_layers", default=None, at_most=MOST_LAYERS)
    listed, other = config.words("layers_block_type"), config.words("layer_types")
    pattern = config.word("hybrid_override_pattern", default="")
    kinds: Sequence[str] | None = listed or other
    if kinds is None:
        if strange := set(pattern) - set(_LETTERS):
            raise config.error(
                f"'hybrid_override_pattern' holds '{min(strange)}'; supported: M (Mamba-2), * (attention), - (feed-forward), E (experts)"
            )
        kinds = [_LETTERS[letter] for letter in pattern] or [LINEAR, _EXPERTS, FULL, _MLP]
    return _known(config, "layers_block_type", kinds, tuple(_LETTERS.values()))


def read_bamba(config: ConfigReader) -> ModelSpec:
    """Bamba: Mamba-2 in all layers but those of `attn_layer_indices`, each with a feed-forward."""
    hidden_size = config.required_size("hidden_size")
    heads = read_heads(config, hidden_size, heads=32, kv_heads=8)
    full, mamba = _full_attention(config, heads), _mamba(config, hidden_size)
    ffn = FeedForward(
        width=config.size("intermediate_size", default=14336), gated=True, bias=config.flag("mlp_bias", default=False)
    )
    of_attention = config.indices("attn_layer_indices")
    blocks = [
        Block(attention=full if layer in of_attention else mamba, ffn=ffn) for layer in range(read_layer_count(config))
    ]
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=128000, tied=False)


def read_granite_hybrid(config: ConfigReader) -> ModelSpec:
    """Granite 4.0: Mamba-2 in most layers, each with a shared feed-forward and, unless there are none, routed experts."""
    hidden_size = config.required_size("hidden_size")
    heads = read_heads(config, hidden_size, heads=32)
    full, mamba = _full_attention(config, heads), _mamba(config, hidden_size)
    shared = config.size("shared_intermediate_size", default=1024)
    ffn: FeedForward | MixtureOfExperts = FeedForward(width=shared, gated=True)
    if config.size("num_local_experts", "num_experts", default=8, at_least=0):
        routed = read_experts(config, "num_local_experts", "num_experts", default=8, top_k=2, width=11008)
        ffn = routed.model_copy(update={"shared_width": shared})
    layers = read_layer_count(config)
    kinds = config.words("layer_types") or config.words("layers_block_type") or [LINEAR] * layers
    if len(kinds) != layers:
        raise config.error(f"'layer_types' names {len(kinds)} layers; num_hidden_layers is {layers}")
    kinds = _known(config, "layer_types", kinds, (LINEAR, FULL))
    blocks = [Block(attention=mamba if kind == LINEAR else full, ffn=ffn) for kind in kinds]
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=32000, tied=False)


def read_minimax(config: ConfigReader) -> ModelSpec:
    """MiniMax-01: lightning attention in most layers, experts in all."""
    hidden_size = config.required_size("hidden_size")
    heads = read_heads(config, hidden_size, heads=32, kv_heads=8)
    full = MultiHeadAttention(**heads._asdict())
    sizes = {"key_heads": heads.heads, "key_size": heads.head_size, "value_size": heads.head_size}
    lightning = Lightning(heads=heads.heads, **sizes, chunk=config.size("block_size", default=256))
    ffn = read_experts(config, "num_local_experts", "num_experts", default=8, top_k=2, width=14336)
    layers = read_layer_count(config)
    kinds = config.words("layer_types") or [(FULL, LINEAR)[layer % 2] for layer in range(layers)]
    if len(kinds) != layers:
        raise config.error(f"'layer_types' names {len(kinds)} layers; num_hidden_layers is {layers}")
    kinds = _known(config, "layer_types", kinds, (LINEAR, FULL))
    blocks = [Block(attention=lightning if kind == LINEAR else full, ffn=ffn) for kind in kinds]
    return decoder(config, blocks, hidden_size=hidden_size, vocab_size=32000, tied=False)


def _full_attention(config: ConfigReader, heads: Heads) -> MultiHeadAttention:
    bias = config.flag("attention_bias", default=False)
    return MultiHeadAttention(**heads._asdict(), qkv_bias=bias, output_bias=bias)


def _mamba(config: ConfigReader, hidden_size: int) -> Mamba2:
    """Return Mamba-2 by Bamba's keys.

    Raises:
        SpecError: its heads are not as wide together as `mamba_expand` says.
    """
    heads, inner = (
        config.size("mamba_n_heads", default=128),
        config.size("mamba_expand", default=2) * hidden_size,
    )
    given = config.config.get("mamba_d_head", "auto")
    size = inner // heads if given == "auto" else config.size("mamba_d_head", default=inner // heads)
    if size * heads != inner:
        raise config.error(
            f"mamba_n_heads {heads} of {size} are not as wide together as mamba_expand x hidden_size, {inner}; give heads that divide it"
        )
    return Mamba2(
        heads=heads,
        key_heads=config.size("mamba_n_groups", default=1),
        key_size=config.size("mamba_d_state", default=256),
        value_size=size,
        kernel=config.size("mamba_d_conv", default=4),
        chunk=config.size("mamba_chunk_size", default=256),
        convolution_bias=config.flag("mamba_conv_bias", default=True),
        bias=config.flag("mamba_proj_bias", default=False),
    )


def _known(config: ConfigReader, key: str, kinds: Sequence[str], supported: tuple[str, ...]) -> list[str]:
    """Return the kinds of layers in transformers' newer names.

    Raises:
        SpecError: names a kind that the family does not have.
    """
    renamed = [_OLD_NAMES.get(kind, kind) for kind in kinds]
    for kind in renamed:
        if kind not in supported:
            raise config.error(f"'{key}' holds '{kind}'; supported: {', '.join(repr(each) for each in supported)}")
    return renamed
