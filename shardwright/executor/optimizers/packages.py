"""The optimizers of packages beside torch: Lion and SOAP of pytorch-optimizer, AdamW with states in 8 bits of torchao."""

import logging
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

_SMALLEST_SCALE = 1e-12
"""As torchao has it (optim/quant_utils.py, scale_tensor)."""


def lion(groups: Sequence[dict[str, Any]], *, betas: tuple[float, float]) -> torch.optim.Optimizer:
    """Return Lion with decoupled decay."""
    from pytorch_optimizer import Lion

    found: torch.optim.Optimizer = Lion(groups, betas=betas)
    return found


def soap(parameters: list[nn.Parameter], **settings: Any) -> torch.optim.Optimizer:
    """Return SOAP of whole matrices."""
    from pytorch_optimizer import SOAP

    found: torch.optim.Optimizer = SOAP(parameters, **settings)
    return found


def adamw_8bit(
    groups: Sequence[dict[str, Any]] | list[nn.Parameter], *, betas: tuple[float, float], eps: float
) -> torch.optim.Optimizer:
    """Return AdamW with states in 8 bits, without decay but for that of groups.

    torchao compiles its step. On a CPU that takes longer than it gains, and it runs as it is written.
    """
    os.environ.setdefault(
        "TORCHAO_FORCE_SKIP_LOADING_SO_FILES", "1"
    )  # kernels of other methods, built for other versions of torch
    logging.getLogger("torchao").setLevel(logging.ERROR)
    from torchao.optim import AdamW8bit

    class _AdamW8bit(AdamW8bit):  # type: ignore[misc]  # without types
        def step(self, closure: Any = None) -> Any:
            for group in self.param_groups:
                group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32)
            compiles = any(one.is_cuda for group in self.param_groups for one in group["params"])
            with torch.compiler.set_stance("default" if compiles else "force_eager"):
                return super().step(closure)

    found: torch.optim.Optimizer = _AdamW8bit(groups, betas=betas, eps=eps, weight_decay=0.0)
    return found


def is_8bit(state: Tensor) -> bool:
    """Whether a state is torchao's in 8 bits."""
    return hasattr(state, "qmap")


def in_fp32(state: Tensor) -> Tensor:
    """Return a state in 8 bits as fp32, a copy; others as they are."""
    found: Tensor = state.dequantize() if is_8bit(state) else state
    return found


def take_over(state: Tensor, value: Tensor) -> None:
    """Write `value` into a state. What `in_fp32` returned comes back to the last bit.

    torchao scales each block by its largest absolute value, for which its signed code has no negative: there the scale is larger.
    """
    state.copy_(value)
    held: Any = state
    if not is_8bit(state) or not held.signed:
        return
    from torchao.optim.quant_utils import quantize_8bit_with_qmap

    blocks = value.reshape(held.scale.numel(), -1)
    largest = blocks.gather(1, blocks.abs().argmax(dim=1, keepdim=True)).squeeze(1)
    held.scale.copy_(torch.where(largest < 0, largest / held.qmap.min(), largest))
    codes = quantize_8bit_with_qmap(blocks / held.scale.clamp(min=_SMALLEST_SCALE)[:, None], held.qmap)
    held.codes.copy_(codes.view_as(held.codes))
