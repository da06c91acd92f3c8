"""What transformers builds from a configuration, on the meta device: shapes without memory."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from shardwright.specs.model.model import ModelSpec

_untyped: Any = transformers  # it annotates only some of its functions
_untyped.logging.set_verbosity_error()  # its warnings are about keys of generation, which say nothing about shapes


def build_on_meta(config: Mapping[str, Any]) -> nn.Module:
    """The causal language model of a config.json, from nothing but the file's own keys."""
    keys = copy.deepcopy(dict(config))  # configuration classes edit nested dictionaries in place
    built = _untyped.AutoConfig.for_model(keys.pop("model_type"), **keys)
    with torch.device("meta"):
        model = _untyped.AutoModelForCausalLM.from_config(built)
    assert isinstance(model, nn.Module)
    return model


def save_again(config: Mapping[str, Any], folder: Path) -> None:
    """The config.json that transformers writes into `folder` after it has read `config`."""
    keys = copy.deepcopy(dict(config))
    _untyped.AutoConfig.for_model(keys.pop("model_type"), **keys).save_pretrained(folder)


def count_parameters(module: nn.Module) -> int:
    """Every trained element once, a tied head not twice; buffers are no parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def decoder_layers(model: nn.Module, layer_count: int) -> nn.ModuleList:
    """The stack of layers; among the lists of a model the first of that length is the outermost."""
    return next(
        module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == layer_count
    )


def assert_same_shape(spec: ModelSpec, config: Mapping[str, Any]) -> None:
    """`spec` has the parameters that transformers builds, in all and layer by layer, and the same windows."""
    model = build_on_meta(config)
    assert spec.parameter_count + spec.idle_parameter_count == count_parameters(model)
    layers = decoder_layers(model, spec.layer_count)
    blocks = [spec.layer_classes[index] for index in spec.class_of_layer]
    for block, layer in zip(blocks, layers, strict=True):
        assert sum(p.elements for p in block.parameters(spec.hidden_size)) == count_parameters(layer)
    for layer, kind in zip(layers, getattr(model.config, "layer_types", None) or [], strict=False):
        layer.is_chunked = kind == "chunked_attention"
    windows = [block.attention.window for block in blocks]
    assert windows == [_window_of(layer, model.config) for layer in layers]


def _window_of(layer: nn.Module, config: Any) -> int | None:
    """The window a layer's attention is given: its own where it keeps one, else the model's."""
    if "chunked_attention" in (getattr(config, "layer_types", None) or ()):
        return config.attention_chunk_size if getattr(layer, "is_chunked", False) else None
    attention = next((getattr(layer, name) for name in ("self_attn", "attn") if hasattr(layer, name)), None)
    window = getattr(attention, "sliding_window", None)
    if window is None and getattr(config, "layer_types", None) is None:
        window = getattr(config, "sliding_window", None)
    return window or None
