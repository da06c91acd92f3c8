"""The gradient norm of a model whose parts are on many ranks, and clipping by it."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def gradient_norm(
    gradients: Iterable[tuple[nn.Parameter, Tensor | None]], *, ranks_per_stage: int, device: torch.device
) -> float:
    """Return the L2 norm of the whole model's gradient, over all ranks of the default process group.

    `gradients`: this rank's parameters, each with its own part of the gradient, wherever that is; None: it has none. Each rank adds the squares of its shards, divided by the number of ranks that hold the same shard. The sum over all
    ranks then counts every element once.
    """
    return gradient_norms(gradients, ranks_per_stage=ranks_per_stage, device=device)[0]


def gradient_norms(
    gradients: Iterable[tuple[nn.Parameter, Tensor | None]],
    *,
    ranks_per_stage: int,
    device: torch.device,
    replica: int = 0,
    replicas: int = 1,
) -> list[float]:
    """Return the norm of each of `replicas` whose gradients differ. This rank is of the one numbered `replica`, whose stages have
    `ranks_per_stage` ranks each."""
    by_shards: dict[int, list[Tensor]] = {}
    for parameter, gradient in gradients:
        if gradient is not None:
            by_shards.setdefault(_shards(parameter), []).append(gradient)
    total = torch.zeros(replicas, dtype=torch.float64, device=device)
    for shards, own in by_shards.items():
        copies = ranks_per_stage / shards
        total[replica] += torch.nn.utils.get_total_norm(own).to(device).double().square() / copies
    dist.all_reduce(total)
    return [float(norm) for norm in total.sqrt()]


def scale_gradients(parameters: Iterable[nn.Parameter], factor: float) -> None:
    """Multiply every gradient by `factor`, in place."""
    gradients = [gradient for parameter in parameters if (gradient := local_gradient(parameter)) is not None]
    if gradients:
        torch._foreach_mul_(gradients, factor)


def local_gradient(parameter: nn.Parameter) -> Tensor | None:
    """Return this rank's part of a parameter's gradient."""
    gradient = parameter.grad
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
