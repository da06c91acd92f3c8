"""Common parts of the families: the shape of attention, the window of each layer, and the model around its layers."""

import copy
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple

from shardwright.specs.model import Activation, Block, BlockRun, ModelSpec, Norm

from .reader import MOST_LAYERS, ConfigReader

# Other names of transformers (activations.py) are computed in one kernel, or nearly so.
_COMPUTED: dict[str, Activation] = {"relu": "relu", "gelu_new": "gelu_new"}
FULL, SLIDING, CHUNKED, LINEAR = "full_attention", "sliding_attention", "chunked_attention", "linear_attention"


class Heads(NamedTuple):
    """Number and size of attention heads."""

    heads: int
    kv_heads: int
    head_size: int


def read_layer_count(config: ConfigReader, *spellings: str) -> int:
    return config.required_size(*(spellings or ("num_hidden_layers",)), at_most=MOST_LAYERS)


def read_heads(
    config: ConfigReader,
    hidden_size: int,
    *,
    heads: int,
    kv_heads: int | None = None,
    head_size: int | None = None,
    even_split: bool = False,
) -> Heads:
    """Return heads from `num_attention_heads`, `num_key_value_heads` and `head_dim`; the arguments are family defaults.

    A null `num_key_value_heads` means one for each head. A null `head_dim` means hidden_size / heads. `even_split`
    refuses heads that don't divide the hidden size even where `head_dim` is given, as some transformers classes do.

    Raises:
        SpecError: heads don't divide hidden_size, or kv heads don't divide heads.
    """
    count = config.size("num_attention_heads", default=heads)
    kv_count = config.optional_size("num_key_value_heads", default=kv_heads) or count
    if count % kv_count:
        raise config.error(f"num_key_value_heads {kv_count} must divide num_attention_heads {count}")
    size = config.optional_size("head_dim", default=head_size)
    if size is None or even_split:
        even = divide_hidden(config, hidden_size, count)
        size = even if size is None else size
    return Heads(count, kv_count, size)


def divide_hidden(config: ConfigReader, hidden_size: int, heads: int) -> int:
    """Return the elements of one head where heads share the hidden size.

    Raises:
        SpecError: they can't share it evenly.
    """
    if hidden_size % heads:
        raise config.error(f"hidden size {hidden_size} must be a multiple of the {heads} attention heads")
    return hidden_size // heads


def read_windows(
    config: ConfigReader, layers: int, window: int | None, slides: Callable[[int], bool], *, sliding: str = SLIDING
) -> tuple[int | None, ...]:
    """Return each layer's window in tokens (None: all), from `layer_types` or else from `slides(layer)`.

    `sliding` is the word for a layer with a window.

    Raises:
        SpecError: `layer_types` has another length than the model, or names attention other than full and sliding.
    """
    kinds = config.words("layer_types")
    if kinds is None:
        return tuple(window if slides(layer) else None for layer in range(layers))
    if len(kinds) != layers:
        raise config.error(f"'layer_types' names {len(kinds)} layers; num_hidden_layers is {layers}")
    for kind in kinds:
        if kind not in (FULL, sliding):
            raise config.error(f"'layer_types' holds {kind!r}; supported: '{FULL}', '{sliding}'")
    return tuple(window if kind == sliding else None for kind in kinds)


def read_linear_layers(config: ConfigReader, layers: int, is_linear: Callable[[int], bool]) -> tuple[bool, ...]:
    """Return whether each layer's attention is linear, from `layer_types` or else from `is_linear(layer)`.

    Raises:
        SpecError: `layer_types` has another length than the model, or names attention other than full and linear.
    """
    linear = read_windows(config, layers, 1, is_linear, sliding=LINEAR)
    return tuple(window is not None for window in linear)


def read_qwen_window(config: ConfigReader) -> int | None:
    """Return `sliding_window` only where Qwen's `use_sliding_window` is true;
    else transformers writes 0 or null there."""
    if not config.flag("use_sliding_window", default=False):
        return None
    return config.optional_size("sliding_window", default=4096)


def read_activation(config: ConfigReader, key: str, *, default: str) -> Activation:
    """Return how the activation that `key` names is computed; `default` is the family's."""
    return _COMPUTED.get(config.word(key, default=default), "kernel")


def with_window(block: Block, window: int | None) -> Block:
    """Return the same block with attention limited to `window` tokens."""
    return block.model_copy(update={"attention": block.attention.model_copy(update={"window": window})})


def with_windows(block: Block, windows: Sequence[int | None]) -> list[Block]:
    """Return one block for each layer, equal to `block` except for the window."""
    by_window = {window: with_window(block, window) for window in windows}
    return [by_window[window] for window in windows]


class Ends(NamedTuple):
    """The parts around the layers; the fields of ModelSpec of the same names."""

    final_norm: Norm | None = Norm()
    positions: int = 0
    position_padding: int = 0
    embedding_size: int | None = None
    embedding_norm: bool = False
    head_bias: bool = False


def decoder(
    config: ConfigReader,
    blocks: Sequence[Block],
    *,
    hidden_size: int,
    vocab_size: int,
    tied: bool,
    ends: Ends | None = None,
) -> ModelSpec:
    """Return the model of these layers; `vocab_size` and `tied` are the family's defaults.

    `ladder_residual`, a key of this project's own, makes ladders of the residuals of any family.
    """
    if config.flag("ladder_residual", default=False):
        blocks = [block.model_copy(update={"ladder": True}) for block in blocks]
    runs = tuple(BlockRun(count=len(list(same)), block=block) for block, same in groupby(blocks))
    return ModelSpec(
        name=config.name,
        family=config.config["model_type"],
        hidden_size=hidden_size,
        vocab_size=config.size("vocab_size", default=vocab_size),
        blocks=runs,
        tied_embeddings=config.flag("tie_word_embeddings", default=tied),
        config=copy.deepcopy(dict(config.config)),
        **(ends or Ends())._asdict(),
    )
