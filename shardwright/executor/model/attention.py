"""Attention of a model's layers: which function computes it, and the recomputation of its core in the backward pass."""

import copy
import sys
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, PreTrainedModel

from shardwright.base import SpecError


def set_attention(model: PreTrainedModel, name: str) -> None:
    """Let every layer of `model` compute attention by the function that is registered under `name`."""
    model.config._attn_implementation = name
    for module in model.modules():
        own: Any = getattr(module, "config", None)
        if own is not None and own is not model.config and hasattr(own, "_attn_implementation"):
            own._attn_implementation = name


def recompute_core(layer: nn.Module) -> None:
    """Compute the attention core of this layer again in the backward pass (Korthikanti et al. 2022, section 5).

    Kept for the backward pass: query, key and value after rotation, (batch, heads, sequence, head size) each, and the
    core's output. Computed again: QK^T, mask, softmax and the product with V. None of the (batch, heads, sequence,
    sequence) tensors then outlives the layer's forward pass.

    Only the unfused kernel keeps such tensors. A flash kernel keeps the same four tensors and one number a query. It
    computes the scores again inside its own backward pass. There `selective` equals `none`, and this function does not
    change the layer.

    Raises:
        SpecError: the layer has no attention whose core is a function of its own.
    """
    found = False
    for module in layer.modules():
        shared: Any = getattr(module, "config", None)
        core = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        if shared is None or core is None or not type(module).__name__.endswith("Attention"):
            continue
        found = True
        if shared._attn_implementation == "eager":
            own = copy.copy(shared)
            own._attn_implementation = _register(type(module).__module__, core)
            module.config = own
    if not found:
        raise SpecError(f"{type(layer).__name__} has no attention core to recompute; plan with --recompute none,full")


def _register(module_name: str, core: Any) -> str:
    """Register a family's unfused attention, recomputed, under a name for its layers."""
    name = f"shardwright_recomputed_{module_name.rpartition('.')[2].removeprefix('modeling_')}"

    def recomputed(module: nn.Module, *tensors: Any, **options: Any) -> Any:
        return checkpoint(core, module, *tensors, use_reentrant=False, preserve_rng_state=False, **options)

    AttentionInterface.register(name, recomputed)
    return name
