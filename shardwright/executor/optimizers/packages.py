"""The optimizers of packages beside torch: Lion and SOAP of pytorch-optimizer, AdamW with states in 8 bits of torchao."""

import logging
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


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
