"""The gradient norm of a model whose parts are on many ranks, and clipping by it."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def gradient_norm(parameters: Iterable[nn.Parameter], *, ranks_per_stage: int, device: torch.device) -> float:
    """Return the L2 norm of the whole model's gradient, over all ranks of the default process group.

    Each rank adds the squares of its shards, divided by the number of ranks that hold the same shard. The sum over all
    ranks then counts every element once.
    """
    by_shards: dict[int, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            by_shards.setdefault(_shards(parameter), []).append(_local(parameter.grad))
    total = torch.zeros((), dtype=torch.float64, device=device)
    for shards, gradients in by_shards.items():
        copies = ranks_per_stage / shards
        total += torch.nn.utils.get_total_norm(gradients).to(device).double().square() / copies
    dist.all_reduce(total)
    return float(total.sqrt())


def scale_gradients(parameters: Iterable[nn.Parameter], factor: float) -> None:
    """Multiply every gradient by `factor`, in place."""
    gradients = [_local(parameter.grad) for parameter in parameters if parameter.grad is not None]
    if gradients:
        torch._foreach_mul_(gradients, factor)


def _local(gradient: Tensor) -> Tensor:
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient


def _shards(parameter: nn.Parameter) -> int:
    """Return the number of ranks of a stage over which the parameter's elements are divided."""
    if not isinstance(parameter, DTensor):
        return 1
    shards = 1
    for axis, placement in enumerate(parameter.placements):
        if not placement.is_replicate():
            shards *= parameter.device_mesh.size(axis)
    return shards
