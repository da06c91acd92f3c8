"""A family of models: one configuration with other depths and widths, everything else as it is.

Scaled are the keys of a Hugging Face config.json, so that every model of the family can be planned and trained as a file.
"""

import math
from dataclasses import dataclass
from typing import Any, Self

from shardwright.base import SpecError
from shardwright.catalog.huggingface import model_from_config
from shardwright.specs.model import FeedForward, ModelSpec

_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_WIDTHS = ("hidden_size", "n_embd", "n_embed", "d_model")
_HEADS = ("num_attention_heads", "n_head", "n_heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads")
_FEED_FORWARDS = (
    *("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"),
    *("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"),
)
_EMBEDDING = "word_embed_proj_dim"
_PER_LAYER = "layer_types"

# Heads come in multiples of this where the model's do, so that tensor parallelism over the 8 devices of a node divides them.
_HEADS_TOGETHER = 8
_LAYERS_TOGETHER = 4
_FEED_FORWARD_MULTIPLE = 256


@dataclass(frozen=True)
class Family:
    """The models with the architecture of `model`, in units of width and of depth.

    Width: heads in multiples of `head_unit`, of the size they have; the hidden width and the feed-forwards grow with them. Key-value
    heads stay if there are fewer than heads, else they are as many. Experts, latent ranks and vocabulary stay. Depth: layers in
    multiples of `layer_unit`.
    """

    model: ModelSpec
    head_unit: int
    layer_unit: int

    @classmethod
    def of(cls, model: ModelSpec) -> Self:
        """The family of a model.

        Raises:
            SpecError: the model has no Hugging Face configuration, or its layers have several numbers of heads.
        """
        if not model.config:
            raise SpecError(
                f"model {model.name} has no Hugging Face configuration to scale; load a preset or a config.json"
            )
        shapes = {(block.attention.heads, block.attention.kv_heads) for block in model.layer_classes}
        if len(shapes) > 1:
            raise SpecError(
                f"model {model.name} has layers with several numbers of heads, which one width does not scale; ask about a model whose "
                "layers all have as many"
            )
        heads, kv_heads = next(iter(shapes))
        whole_width = heads // math.gcd(heads, model.hidden_size)
        unit = math.lcm(math.gcd(heads, _HEADS_TOGETHER), kv_heads if kv_heads < heads else 1, whole_width)
        return cls(model, unit, math.gcd(model.layer_count, _LAYERS_TOGETHER))

    @property
    def heads(self) -> int:
        return self.model.layer_classes[0].attention.heads

    def member(self, heads: int, layers: int) -> ModelSpec:
        """The model of the family with that many heads and layers.

        Raises:
            SpecError: the configuration is not valid so, or leaves out a key that must grow.
        """
        name = f"{self.model.name}-{layers}x{self.model.hidden_size * heads // self.heads}"
        config = self._config(heads, layers)
        scaled = model_from_config(config, name=name, source=f"{self.model.name}, scaled")
        self._check_grown(scaled, heads)
        return scaled

    def _config(self, heads: int, layers: int) -> dict[str, Any]:
        mine, config = self.heads, dict(self.model.config)
        kv_heads = self.model.layer_classes[0].attention.kv_heads
        _set(config, _LAYERS, layers)
        _set(config, _WIDTHS, self.model.hidden_size * heads // mine)
        _set(config, _HEADS, heads)
        if kv_heads == mine and any(config.get(key) is not None for key in _KV_HEADS):
            _set(config, _KV_HEADS, heads)
        for key in _FEED_FORWARDS:
            if config.get(key):
                config[key] = _scaled(config[key], heads, mine)
        if config.get(_EMBEDDING):
            config[_EMBEDDING] = config[_EMBEDDING] * heads // mine
        if config.get(_PER_LAYER):
            kinds = config[_PER_LAYER]
            config[_PER_LAYER] = [kinds[layer % len(kinds)] for layer in range(layers)]
        return config

    def _check_grown(self, scaled: ModelSpec, heads: int) -> None:
        for before, after in zip(self.model.layer_classes, scaled.layer_classes, strict=False):
            old, new = _width(before.ffn), _width(after.ffn)
            if type(before.ffn) is type(after.ffn) and abs(new - _scaled(old, heads, self.heads)) > old * 0.1:
                raise SpecError(
                    f"model {self.model.name}: its configuration does not say how wide feed-forwards are; add the key "
                    f"'intermediate_size': {old}, so that it grows with the model"
                )


def _width(ffn: Any) -> int:
    return int(ffn.width if isinstance(ffn, FeedForward) else ffn.expert_width)


def _set(config: dict[str, Any], spellings: tuple[str, ...], value: int) -> None:
    """Set every spelling that the configuration has, else the first."""
    given = [key for key in spellings if config.get(key) is not None] or [spellings[0]]
    config.update(dict.fromkeys(given, value))


def _scaled(width: int, heads: int, of_heads: int) -> int:
    """The width in proportion to the heads, to the nearest multiple of the power of two that the width has, at most 256."""
    together = math.gcd(width, _FEED_FORWARD_MULTIPLE)
    return max(1, round(width * heads / of_heads / together)) * together
