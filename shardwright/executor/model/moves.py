"""What ranks of one tp group exchange in the forward pass, and what in the backward pass.

Tensors are plain. A move states both directions, because the gradient of a tensor that all ranks hold may be whole on each of
them, or only the part that this rank's heads and columns contribute (Megatron-LM, Shoeybi et al. 2019, section 3; with a
divided sequence Korthikanti et al. 2022, section 4.2.2).
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, distribute_tensor
from torch.distributed.tensor.placement_types import Placement


class Ranks(Protocol):
    """This rank among the `size` ranks of its tp group: what they exchange, and its part of a parameter."""

    rank: int
    size: int

    def sum(self, tensor: Tensor) -> Tensor: ...

    def gather(self, tensor: Tensor, dim: int) -> Tensor: ...

    def scatter(self, tensor: Tensor, dim: int) -> Tensor:
        """Sum the ranks' tensors, and return this rank's part along `dim`."""
        ...

    def part(self, parameter: nn.Parameter, placement: Placement) -> nn.Parameter: ...

    def local(self, parameter: Tensor, *, partial: bool) -> Tensor:
        """Return what a forward pass computes with. `partial`: the gradient of a whole parameter is this rank's part."""
        ...


_OPERATORS: Any = torch.ops._c10d_functional


def _waited(tensor: Tensor) -> Tensor:
    waited: Tensor = _OPERATORS.wait_tensor(tensor)
    return waited


class MeshRanks:
    """The ranks of a one-dimensional device mesh. Parameters are `DTensor`s over it."""

    def __init__(self, mesh: DeviceMesh) -> None:
        self.mesh, self.rank, self.size = mesh, mesh.get_local_rank(), mesh.size()
        self._group = self.name = mesh.get_group().group_name

    def sum(self, tensor: Tensor) -> Tensor:
        return _waited(_OPERATORS.all_reduce(tensor.contiguous(), "sum", self._group))

    def largest(self, tensor: Tensor) -> Tensor:
        """Return the largest of the ranks' tensors, element by element."""
        return _waited(_OPERATORS.all_reduce(tensor, "max", self._group))

    def gather(self, tensor: Tensor, dim: int) -> Tensor:
        gathered = _waited(_OPERATORS.all_gather_into_tensor(tensor.contiguous(), self.size, self._group))
        return gathered if dim == 0 else torch.cat(gathered.chunk(self.size), dim)

    def scatter(self, tensor: Tensor, dim: int) -> Tensor:
        stacked = tensor.contiguous() if dim == 0 else torch.cat(tensor.chunk(self.size, dim))
        return _waited(_OPERATORS.reduce_scatter_tensor(stacked, "sum", self.size, self._group))

    def trade(self, tensor: Tensor) -> Tensor:
        """Send the r-th entry of the first dimension to rank r; return what each rank sent, in their order."""
        return self.exchange(tensor, [1] * self.size, [1] * self.size)

    def exchange(self, tensor: Tensor, out: list[int], back: list[int]) -> Tensor:
        """Send `out[r]` entries of the first dimension to rank r, in order; return the `back[r]` that came from each."""
        return _waited(_OPERATORS.all_to_all_single(tensor.contiguous(), back, out, self._group))

    def part(self, parameter: nn.Parameter, placement: Placement) -> nn.Parameter:
        # every rank made the same full tensor from the seed, so each cuts its own part without communication
        part = distribute_tensor(parameter.detach(), self.mesh, [placement], src_data_rank=None)
        return nn.Parameter(part, requires_grad=parameter.requires_grad)

    def local(self, parameter: Tensor, *, partial: bool) -> Tensor:
        if not isinstance(parameter, DTensor):
            return parameter
        whole = isinstance(parameter.placements[0], Replicate)
        return parameter.to_local(grad_placements=[Partial()] if partial and whole else None)


Direction = Callable[[Tensor, Ranks], Tensor]


class Move(NamedTuple):
    """One exchange: `forward` of the tensor, `backward` of its gradient."""

    forward: Direction
    backward: Direction

    def __call__(self, tensor: Tensor, ranks: Ranks) -> Tensor:
        moved: Tensor = _Moved.apply(tensor, ranks, self)  # type: ignore[no-untyped-call]  # torch's
        return moved


class _Moved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, ranks: Ranks, move: Move) -> Tensor:
        ctx.ranks, ctx.move = ranks, move
        return move.forward(tensor, ranks)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None]:
        return ctx.move.backward(gradients[0], ctx.ranks), None, None


def _same(tensor: Tensor, _ranks: Ranks) -> Tensor:
    return tensor.view_as(tensor)


def _sum(tensor: Tensor, ranks: Ranks) -> Tensor:
    return ranks.sum(tensor)


def _gather(dim: int) -> Direction:
    return lambda tensor, ranks: ranks.gather(tensor, dim % tensor.dim())


def _scatter(dim: int) -> Direction:
    return lambda tensor, ranks: ranks.scatter(tensor, dim % tensor.dim())


def _slice(dim: int) -> Direction:
    # a copy: one sequence's part is contiguous as it is, and would keep the whole tensor in memory
    return lambda tensor, ranks: tensor.chunk(ranks.size, dim)[ranks.rank].clone(memory_format=torch.contiguous_format)


SEQUENCE = 1
"""The dimension that sequence parallelism divides, of (batch, sequence, hidden)."""

SUM_GRADIENTS = Move(_same, _sum)
"""A whole tensor that each rank uses for a part of the work."""
SUM = Move(_sum, _same)
"""Partial sums of all ranks, added up."""
GATHER_SEQUENCE = Move(_gather(SEQUENCE), _scatter(SEQUENCE))
"""The whole sequence, which each rank uses for a part of the work."""
GATHER_SEQUENCE_WHOLE = Move(_gather(SEQUENCE), _slice(SEQUENCE))
"""The whole sequence, which all ranks use alike."""
SCATTER_SEQUENCE = Move(_scatter(SEQUENCE), _gather(SEQUENCE))
"""Partial sums of all ranks, added up; each keeps its part of the sequence."""
SLICE_SEQUENCE = Move(_slice(SEQUENCE), _gather(SEQUENCE))
"""Of a tensor that all ranks hold, this rank's part of the sequence."""
GATHER_COLUMNS = Move(_gather(-1), _slice(-1))
"""All columns, which all ranks use alike."""
SLICE_COLUMNS = Move(_slice(-1), _gather(-1))
"""Of a tensor that all ranks hold, this rank's columns."""
