"""Frozen weights: which parts of a model train, and the format of those that do not."""

import torch
from torch import nn

from shardwright.specs import Trainable


def trains_path(path: str, trainable: Trainable, *, layers: str, layer_count: int, after: tuple[str, ...]) -> bool:
    """Whether the weights at `path` of the model are trained, a layer of the list at `layers` or a part around it.

    `after`: what runs after the last layer, the final norm and the head.
    """
    if trainable.trains_all:
        return True
    if path.startswith(f"{layers}."):
        return trainable.kind == "layers" and int(path.removeprefix(f"{layers}.")) >= layer_count - trainable.layers
    return path in after and trainable.trains_head


def freeze(module: nn.Module, dtype: torch.dtype) -> None:
    """Hold all parameters of `module` without gradients, in the compute format, as the cost model charges them."""
    for owner in module.modules():
        for name, parameter in list(owner.named_parameters(recurse=False)):
            owner.register_parameter(name, nn.Parameter(parameter.detach().to(dtype), requires_grad=False))
