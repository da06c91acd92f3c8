"""The optimizer of a plan's training, and the learning rate of each step."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from shardwright.executor import RunOptions
from shardwright.specs import OptimizerName


def learning_rate_at(step: int, options: RunOptions) -> float:
    """Return the learning rate of `step`, from 1: linear warm-up to the peak, then a cosine to its fraction at the last
    step.

    lr(s) = peak * s / W for s <= W, else peak * (f + (1 - f) (1 + cos(pi (s - W) / (S - W))) / 2), with W warm-up
    steps, S steps and f the smallest fraction (Loshchilov and Hutter 2017, equation 5, without restarts).
    """
    warmup, peak, lowest = (
        options.learning_rate_warmup_steps,
        options.learning_rate,
        options.min_learning_rate_fraction,
    )
    if step <= warmup:
        return peak * step / warmup
    progress = min(1.0, (step - warmup) / (options.steps - warmup))
    return peak * (lowest + (1 - lowest) * (1 + math.cos(math.pi * progress)) / 2)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def build_optimizer(parts: Sequence[nn.Module], name: OptimizerName, options: RunOptions) -> torch.optim.Optimizer:
    """Return AdamW, by torch's fused kernel on GPU and CPU alike, or SGD over all parameters of this rank's `parts`.

    Weight decay acts on matrices only. Norms and biases have none, also biases of stacked projections and experts.
    """
    groups = _groups((named for part in parts for named in part.named_parameters()), options.weight_decay)
    if name == "sgd":
        # the fused kernel of SGD does not accept DTensors
        return torch.optim.SGD(groups, lr=options.learning_rate, foreach=True)
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=options.betas, eps=options.eps, fused=True)


def _groups(parameters: Iterable[tuple[str, nn.Parameter]], weight_decay: float) -> list[dict[str, Any]]:
    """Return one group for each decay and mesh, because a fused kernel takes tensors of one mesh only."""
    groups: dict[object, dict[str, Any]] = {}
    for name, parameter in parameters:
        if not parameter.requires_grad:
            continue
        decays = parameter.ndim > 1 and not name.endswith("bias")
        mesh = parameter.device_mesh if isinstance(parameter, DTensor) else None
        group = groups.setdefault((decays, mesh), {"params": [], "weight_decay": weight_decay if decays else 0.0})
        group["params"].append(parameter)
    return list(groups.values())
