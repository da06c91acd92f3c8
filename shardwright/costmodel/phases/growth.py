"""Models that get more layers between phases. A new layer is a copy of the one before it whose two output projections are zero.

It adds nothing to the residual stream, so that the grown model computes what the smaller one did (Wu et al. 2024, LLaMA Pro,
arXiv 2401.02415, section 3.2, block expansion). New layers are spread evenly. The optimizer starts anew for them.
"""

from typing import Any, NamedTuple

from shardwright.specs import Trainable
from shardwright.specs.model import LinearAttention, MixtureOfExperts, ModelSpec

LAYERS = "num_hidden_layers"
OUTPUTS = ("self_attn.o_proj", "mlp.down_proj")
"""What of a layer's modules writes into the residual stream."""


class GrownLayer(NamedTuple):
    """A layer of the grown model: the layer of the smaller one that it comes from, and which copy of it; 0: the layer itself."""

    source: int
    copy: int


def grown_layers(smaller: int, larger: int) -> tuple[GrownLayer, ...]:
    """Return the layers of a model of `larger` layers that grew from one of `smaller`, in order.

    Of k new layers, floor((i + 1) k / n) - floor(i k / n) follow the i-th of n.
    """
    more, found = larger - smaller, []
    for layer in range(smaller):
        copies = (layer + 1) * more // smaller - layer * more // smaller
        found += [GrownLayer(layer, copy) for copy in range(copies + 1)]
    return tuple(found)


def why_not_grow(first: ModelSpec, second: ModelSpec, trainable: Trainable) -> str:
    """Say why a run cannot go on with the second model from the first one; empty where both are one model, or the second has more layers."""
    ours, theirs = first.config, second.config
    if ours == theirs:
        return ""
    if _without_layers(ours) != _without_layers(theirs) or not _layers(ours) < _layers(theirs):
        return f"a model grows by layers alone: {LAYERS} larger, and everything else in its config equal"
    if not trainable.trains_all:
        return "a model grows where all its weights are trained"
    if len(second.layer_classes) > 1:
        return f"layers of {second.name} differ, and those behind a new one would change their kind"
    (block,) = second.layer_classes
    if isinstance(block.ffn, MixtureOfExperts) or isinstance(block.attention, LinearAttention):
        return f"layers of {second.name} have experts or linear attention, whose outputs are not known to be zero"
    return ""


def _without_layers(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != LAYERS}


def _layers(config: dict[str, Any]) -> int:
    return int(config.get(LAYERS, 0))
