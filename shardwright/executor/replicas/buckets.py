"""The parameters of a rank in buckets: those of a layer, the experts that ep spreads of it, those before the layers, those behind."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from shardwright.executor.model import StageModule


def local(tensor: Tensor) -> Tensor:
    """Return this rank's part of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@dataclass(frozen=True)
class Bucket:
    """Parameters that are exchanged in one message, as one flat fp32 vector of this rank's parts.

    First come those that tp divides, then those that every tp rank holds whole, each in the order of the model. These are two
    sections with scales of their own: the second is then equal on all tp ranks after an exchange, as it was before.
    """

    name: str
    parameters: tuple[nn.Parameter, ...]
    divided: int
    """How many of the parameters are in the first section."""

    @property
    def sizes(self) -> list[int]:
        """Elements of each section that has any."""
        held = [local(parameter.detach()).numel() for parameter in self.parameters]
        return [size for size in (sum(held[: self.divided]), sum(held[self.divided :])) if size]

    @torch.no_grad()
    def flat(self, of: Callable[[nn.Parameter], Tensor] = lambda parameter: parameter.detach()) -> Tensor:
        """Return what `of` gives for each parameter, (size,) in fp32, a copy."""
        return torch.cat([local(of(parameter)).reshape(-1).float() for parameter in self.parameters])

    @torch.no_grad()
    def spread(self, flat: Tensor, of: Callable[[nn.Parameter], Tensor] = lambda parameter: parameter.detach()) -> None:
        """Write `flat` (size,) into what `of` gives for each parameter."""
        targets = [local(of(parameter)) for parameter in self.parameters]
        for target, values in zip(targets, torch.split(flat, [target.numel() for target in targets]), strict=True):
            target.copy_(values.view(target.shape))


def buckets_of(stages: Sequence[StageModule], *, tp: int) -> tuple[Bucket, ...]:
    """Return the buckets of a rank's trained parameters, stage by stage, in the order of the model."""
    found: dict[str, dict[nn.Parameter, None]] = {}
    for stage in stages:
        layers = f"{stage.structure.layers}."
        depth = layers.count(".") + 1
        behind = (stage.structure.head, *stage.structure.after)
        for name, parameter in stage.named_parameters():
            if not parameter.requires_grad:
                continue
            if name.startswith(layers):
                key = ".".join(name.split(".")[:depth])
            else:
                key = "behind" if any(name.startswith(f"{path}.") for path in behind) else "before"
            if isinstance(parameter, DTensor) and "ep" in (parameter.device_mesh.mesh_dim_names or ()):
                key += ".experts"
            found.setdefault(key, {})[parameter] = None
    return tuple(_bucket(name, list(parameters), tp) for name, parameters in found.items())


def _bucket(name: str, parameters: list[nn.Parameter], tp: int) -> Bucket:
    whole = [one for one in parameters if tp > 1 and not name.endswith(".experts") and not _is_divided(one)]
    divided = [one for one in parameters if all(one is not other for other in whole)]
    return Bucket(name, (*divided, *whole), len(divided))


def _is_divided(parameter: nn.Parameter) -> bool:
    """Whether tp divides it."""
    if not isinstance(parameter, DTensor):
        return False
    names = parameter.device_mesh.mesh_dim_names or ()
    return any(
        name == "tp" and not placement.is_replicate()
        for name, placement in zip(names, parameter.placements, strict=True)
    )
