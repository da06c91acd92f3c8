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
    """Parameters that are exchanged in one message, as one flat fp32 vector of this rank's parts, in the order of the model."""

    name: str
    parameters: tuple[nn.Parameter, ...]

    @property
    def size(self) -> int:
        return sum(local(parameter.detach()).numel() for parameter in self.parameters)

    @torch.no_grad()
    def flat(self, of: Callable[[nn.Parameter], Tensor] = lambda parameter: parameter.detach()) -> Tensor:
        """Return what `of` gives for each parameter, (size,) in fp32, a copy."""
        return torch.cat([local(of(parameter)).reshape(-1).float() for parameter in self.parameters])

    @torch.no_grad()
    def spread(self, flat: Tensor, of: Callable[[nn.Parameter], Tensor] = lambda parameter: parameter.detach()) -> None:
        """Write `flat` (size,) into what `of` gives for each parameter."""
        targets = [local(of(parameter)) for parameter in self.parameters]
        for target, values in zip(targets, flat.split([target.numel() for target in targets]), strict=True):
            target.copy_(values.view(target.shape))


def buckets_of(stages: Sequence[StageModule]) -> tuple[Bucket, ...]:
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
    return tuple(Bucket(name, tuple(parameters)) for name, parameters in found.items())
