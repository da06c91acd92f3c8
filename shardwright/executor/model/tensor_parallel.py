"""Tensor parallelism of one module: the placements of its parameters over tp,
and the layouts of its input and output."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import ParallelStyle, parallelize_module
from torch.distributed.tensor.placement_types import Placement


@dataclass(kw_only=True)  # not frozen: parallelize_module sets its src_data_rank
class Layout(ParallelStyle):
    """Run a module on `DTensor`s between plain tensors.

    A plain first input is taken as this rank's part in layout `given` and moved to `used`. The output is moved to
    `produced` and passed on as this rank's plain part; a plain output is not changed. Gradients return the same way, so
    DTensor does the sums over tp for a replicated parameter or a gathered input. `placements` are those of the
    parameters; a parameter without one is replicated.
    """

    given: Placement
    used: Placement
    produced: Placement
    placements: Mapping[str, Placement] = field(default_factory=dict)

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        # torch types the hooks as returning nothing, but uses what they return
        return distribute_module(module, device_mesh, self._partition, cast(Any, self._enter), self._leave)

    def _partition(self, _name: str, module: nn.Module, mesh: DeviceMesh) -> None:
        for name, parameter in list(module.named_parameters(recurse=False)):
            placement = self.placements.get(name, Replicate())
            # every rank made the same full tensor from the seed, so each cuts its own part without communication
            part = distribute_tensor(parameter.detach(), mesh, [placement], src_data_rank=None)
            module.register_parameter(name, nn.Parameter(part, requires_grad=parameter.requires_grad))

    def _enter(self, _module: nn.Module, inputs: tuple[Any, ...], mesh: DeviceMesh) -> tuple[Any, ...]:
        first, *rest = inputs
        if not isinstance(first, DTensor):
            first = DTensor.from_local(first, mesh, [self.given], run_check=False)
        return (first.redistribute(placements=[self.used]), *rest)

    def _leave(self, _module: nn.Module, output: Any, _mesh: DeviceMesh) -> Any:
        if not isinstance(output, DTensor):
            return output
        return output.redistribute(placements=[self.produced]).to_local()


def replicated(stream: Placement, *, given: Placement | None = None) -> Layout:
    """Return parameters that are whole on every tp rank, applied to an input divided as `stream`."""
    return Layout(given=given or stream, used=stream, produced=stream)


def column_parallel(**placements: Placement) -> Layout:
    """Return a projection whose outputs are divided over tp. Every rank reads the whole input."""
    return Layout(given=Replicate(), used=Replicate(), produced=Shard(-1), placements=placements)


def row_parallel(stream: Placement, **placements: Placement) -> Layout:
    """Return a projection whose inputs are divided over tp. The partial sums of
    the ranks are added into layout `stream`."""
    return Layout(given=Shard(-1), used=Shard(-1), produced=stream, placements=placements)


def vocabulary_parallel_embedding(stream: Placement) -> Layout:
    """Return an embedding of which each tp rank holds some rows and looks up their tokens. Other tokens give zeros."""
    return Layout(given=Replicate(), used=Replicate(), produced=stream, placements={"weight": Shard(0)})


def vocabulary_parallel_head(stream: Placement) -> Layout:
    """Return a head of which each tp rank computes the logits of its part of the vocabulary, for the whole sequence."""
    return Layout(given=stream, used=Replicate(), produced=Shard(-1), placements={"weight": Shard(0), "bias": Shard(0)})


def divide(module: nn.Module, mesh: DeviceMesh, styles: ParallelStyle | Mapping[str, ParallelStyle]) -> None:
    """Divide `module` over the one-dimensional `mesh`, without communication: one style, or one per submodule path."""
    parallelize_module(module, mesh, dict(styles) if isinstance(styles, Mapping) else styles, src_data_rank=None)


def stream_layout(*, sequence_parallel: bool) -> Placement:
    """Return the layout over tp of the residual stream (batch, sequence, hidden)."""
    return Shard(1) if sequence_parallel else Replicate()


class FusedQueryKeyValue(nn.Module):
    """GPT-2's fused projection of query, key and value, stored so that tp can divide its heads.

    GPT-2 places the three side by side in one (hidden, 3 hidden) weight. An equal cut of it would give one rank all
    queries. Here the weight is (hidden, 3, hidden) and the bias (3, hidden): the same memory, reshaped. A cut along the
    last dimension gives every rank its own heads of all three. `weight.reshape(hidden, 3 * hidden)` is Hugging Face's
    tensor again.
    """

    def __init__(self, fused: nn.Module) -> None:
        super().__init__()
        weight, bias = fused.get_parameter("weight"), fused.get_parameter("bias")
        hidden_size = weight.shape[0]
        self.weight = nn.Parameter(weight.detach().reshape(hidden_size, 3, hidden_size))
        self.bias = nn.Parameter(bias.detach().reshape(3, hidden_size))

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (batch, sequence, hidden) to this rank's (batch, sequence, 3 * heads * head size)."""
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if isinstance(weight, DTensor) and isinstance(bias, DTensor) and isinstance(hidden, DTensor):
            hidden = hidden.to_local(grad_placements=[Partial()])
            weight, bias = weight.to_local(), bias.to_local()
        return torch.addmm(bias.flatten(), hidden.flatten(0, 1), weight.flatten(1)).view(*hidden.shape[:2], -1)
