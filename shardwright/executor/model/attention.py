"""Attention of a model's layers: which function computes it, and the recomputation of its core in the backward pass."""

import copy
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts
from transformers import AttentionInterface, PreTrainedModel

from shardwright.base import SpecError

_ATTENTION = ("Attention", "MLA")
"""Endings of transformers' classes of attention whose core is a function of its own."""


def set_attention(model: PreTrainedModel, name: str) -> None:
    """Let every layer of `model` compute attention by the function that is registered under `name`."""
    model.config._attn_implementation = name
    for module in model.modules():
        own: Any = getattr(module, "config", None)
        if own is not None and own is not model.config and hasattr(own, "_attn_implementation"):
            own._attn_implementation = name
    for module in model.modules():
        if _has_own_core(module) and hasattr(module, "config"):
            _redirect(module, name)


def _has_own_core(module: nn.Module) -> bool:
    """Whether attention computes its core itself, as Falcon's and BLOOM's do, and not by what is registered with transformers."""
    code = sys.modules[type(module).__module__]
    return type(module).__name__.endswith("Attention") and not hasattr(code, "ALL_ATTENTION_FUNCTIONS")


def _redirect(module: Any, name: str) -> None:
    """Let attention that calls torch's fused kernel call what is registered under `name` in its place."""
    module.config = copy.copy(module.config)
    module.config._attn_implementation = "sdpa"
    forward = type(module).forward

    def redirected(*given: Any, attention_mask: Any, **options: Any) -> Any:
        with _Redirected(module, name, attention_mask):  # which may be no tensor, as torch's kernel wants it
            return forward(module, *given, attention_mask=None, **options)

    module.forward = redirected


class _Redirected(TorchFunctionMode):
    """Attention by another function, of the mask that it wants, wherever torch's is called inside the block."""

    def __init__(self, module: Any, name: str, mask: Any) -> None:
        self._module, self._attention, self._mask = module, AttentionInterface()[name], mask  # type: ignore[no-untyped-call]  # transformers

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if func is not nn.functional.scaled_dot_product_attention:
            return func(*args, **options)
        query, key, value = args
        heads = min(
            key.shape[1], self._module.num_kv_heads
        )  # Falcon repeats those of keys and values; one of each is enough
        key, value = (tensor[:, :: tensor.shape[1] // heads] for tensor in (key, value))
        self._module.num_key_value_groups = query.shape[1] // heads
        output: Tensor = self._attention(self._module, query, key, value, self._mask)[0]
        return output.transpose(1, 2)


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
        if _has_own_core(module):
            found = True
            _recompute_all_but_linears(module)
            continue
        shared: Any = getattr(module, "config", None)
        core = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        if shared is None or core is None or not type(module).__name__.endswith(_ATTENTION):
            continue
        found = True
        if shared._attn_implementation == "eager":
            own = copy.copy(shared)
            own._attn_implementation = _register(type(module).__module__, core)
            module.config = own
    if not found:
        raise SpecError(f"{type(layer).__name__} has no attention core to recompute; plan with --recompute none,full")


def _recompute_all_but_linears(module: nn.Module) -> None:
    """Compute attention whose core is no function of its own again, unless it is fused, but for the outputs of its linears."""
    shared: Any = getattr(module, "config", None)
    if shared is not None and shared._attn_implementation != "eager":
        return
    forward = module.forward

    def recomputed(*given: Any, **options: Any) -> Any:
        return checkpoint(
            forward, *given, use_reentrant=False, preserve_rng_state=False, context_fn=_keeping_linears, **options
        )

    module.forward = recomputed


def _keeping_linears() -> Any:
    return create_selective_checkpoint_contexts([torch.ops.aten.mm.default, torch.ops.aten.addmm.default])  # type: ignore[no-untyped-call]  # torch


def _register(module_name: str, core: Any) -> str:
    """Register a family's unfused attention, recomputed, under a name for its layers."""
    name = f"shardwright_recomputed_{module_name.rpartition('.')[2].removeprefix('modeling_')}"

    def recomputed(module: nn.Module, *tensors: Any, **options: Any) -> Any:
        return checkpoint(core, module, *tensors, use_reentrant=False, preserve_rng_state=False, **options)

    AttentionInterface.register(name, recomputed)
    return name
