"""The attention core: its mask, and its recomputation in the backward pass."""

import copy
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface

from .families import FAMILIES, Family


def attention_mask(
    *, seq_len: int, window: int | None, kernel: str, dtype: torch.dtype, device: torch.device
) -> torch.Tensor | None:
    """Return the additive causal mask (1, 1, seq_len, seq_len) of `dtype`, or None where the kernel is causal by
    itself.

    `window` limits how many tokens back a query looks, itself included.
    """
    limited = window is not None and window < seq_len
    if kernel == "sdpa" and not limited:
        return None
    position = torch.arange(seq_len, device=device)
    distance = position[:, None] - position[None, :]
    hidden = distance < 0
    if window is not None and limited:
        hidden |= distance >= window
    mask = torch.zeros(seq_len, seq_len, dtype=dtype, device=device)
    return mask.masked_fill_(hidden, torch.finfo(dtype).min)[None, None]


def recompute_core(attention: nn.Module, family: Family) -> None:
    """Compute the attention core of this layer again in the backward pass (Korthikanti et al. 2022, section 5).

    Kept for the backward pass: query, key and value after rotation, (batch, heads, sequence, head size) each, and the
    core's output. Computed again: QK^T, mask, softmax and the product with V. None of the (batch, heads, sequence,
    sequence) tensors then outlives the layer's forward pass.

    Only the unfused kernel keeps such tensors. A flash kernel keeps the same four tensors and one number a query. It
    computes the scores again inside its own backward pass. There `selective` equals `none`, and this function does not
    change the layer.
    """
    shared: Any = attention.config
    if shared._attn_implementation != "eager":
        return
    own = copy.copy(shared)
    own._attn_implementation = _register(family)
    attention.config = own


def _register(family: Family) -> str:
    """Register the family's unfused attention, recomputed, under a name for its layers."""
    name = f"shardwright_recomputed_{next(key for key, value in FAMILIES.items() if value is family)}"

    def recomputed(module: nn.Module, *tensors: torch.Tensor | None, **options: Any) -> Any:
        return checkpoint(
            family.eager_attention, module, *tensors, use_reentrant=False, preserve_rng_state=False, **options
        )

    AttentionInterface.register(name, recomputed)
    return name
