"""How ranks hold the pieces of a matrix, and the exchanges that put whole matrices together on their owners and take them apart.

A parameter is cut over tp first, and each part of it over the ranks that shard it, both as `torch.chunk` cuts. An owner is one of the
latter ranks and one of tp. Pieces meet over the shards first, then over tp; the way back is the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

SHARDS, TENSOR = "dp_shard", "tp"


class Axis(NamedTuple):
    """One axis of the mesh and where it cuts a parameter. `dim` None: it does not, each rank has the same."""

    ranks: int = 1
    rank: int = 0
    dim: int | None = None
    group: dist.ProcessGroup | None = None


@dataclass(frozen=True)
class Cut:
    """A parameter of `shape`, and the axes that cut it."""

    shape: torch.Size
    tp: Axis
    shards: Axis

    @classmethod
    def of(cls, parameter: nn.Parameter) -> "Cut":
        if not isinstance(parameter, DTensor):
            return cls(parameter.shape, Axis(), Axis())
        return cls(parameter.shape, _axis(parameter, TENSOR), _axis(parameter, SHARDS))

    @property
    def owners(self) -> int:
        """Ranks that may own it: of tp only those that have different parts."""
        return self.shards.ranks * (self.tp.ranks if self.tp.dim is not None else 1)

    def of_tp(self, tp: int) -> torch.Size:
        """Return the shape of the part of one rank of tp."""
        return _part(self.shape, self.tp, tp)

    def piece(self, tp: int, shard: int) -> torch.Size:
        """Return the shape of one rank's piece."""
        return _part(self.of_tp(tp), self.shards, shard)


def _axis(parameter: DTensor, name: str) -> Axis:
    mesh = parameter.device_mesh
    if name not in (mesh.mesh_dim_names or ()):
        return Axis()
    place = (mesh.mesh_dim_names or ()).index(name)
    placement = parameter.placements[place]
    dim: int | None = getattr(placement, "dim", None)  # of `Shard`, and of the one that FSDP lays into another
    return Axis(mesh.size(place), mesh.get_local_rank(place), dim, mesh.get_group(place))


def _part(shape: torch.Size, axis: Axis, rank: int) -> torch.Size:
    if axis.dim is None or axis.ranks == 1:
        return shape
    length = shape[axis.dim]
    chunk = -(-length // axis.ranks)
    own = max(0, min(chunk, length - chunk * rank))
    return torch.Size((*shape[: axis.dim], own, *shape[axis.dim + 1 :]))


class Dealt(NamedTuple):
    """A parameter, how it is cut, and its owner: a rank of the shards, and one of tp, None where all of tp own it."""

    parameter: nn.Parameter
    cut: Cut
    shard: int
    tp: int | None

    @property
    def is_own(self) -> bool:
        return self.shard == self.cut.shards.rank and self.tp in (None, self.cut.tp.rank)


@dataclass(frozen=True)
class Round:
    """Parameters that are exchanged together: each rank owns at most one."""

    dealt: Sequence[Dealt]

    @cached_property
    def _axes(self) -> tuple[Axis, Axis]:
        cut = self.dealt[0].cut
        return cut.shards, cut.tp

    def whole(self, pieces: Mapping[nn.Parameter, Tensor]) -> dict[nn.Parameter, Tensor]:
        """Return what this rank owns whole, of every rank's own `pieces`."""
        shards, tp = self._axes
        columns = [one for one in self.dealt if one.shard == shards.rank]
        sent = [[pieces[one.parameter] for one in self.dealt if one.shard == rank] for rank in range(shards.ranks)]
        got = self._exchange(
            sent, [[one.cut.piece(tp.rank, rank) for one in columns] for rank in range(shards.ranks)], shards
        )
        parts = [_joined([tensors[place] for tensors in got], one.cut.shards) for place, one in enumerate(columns)]
        if self.dealt[0].tp is None:
            return {one.parameter: part for one, part in zip(columns, parts, strict=True)}
        sent = [[part for one, part in zip(columns, parts, strict=True) if one.tp == rank] for rank in range(tp.ranks)]
        own = [one for one in columns if one.is_own]
        got = self._exchange(sent, [[one.cut.of_tp(rank) for one in own] for rank in range(tp.ranks)], tp)
        return {
            one.parameter: _joined([tensors[place] for tensors in got], one.cut.tp) for place, one in enumerate(own)
        }

    def apart(self, whole: Mapping[nn.Parameter, Tensor]) -> dict[nn.Parameter, Tensor]:
        """Return this rank's pieces of all parameters, of the `whole` ones on their owners."""
        shards, tp = self._axes
        columns = [one for one in self.dealt if one.shard == shards.rank]
        if self.dealt[0].tp is None:
            parts = [whole[one.parameter] for one in columns]
        else:
            own = [one for one in columns if one.is_own]
            sent = [[_cut(whole[one.parameter], one.cut.tp, rank) for one in own] for rank in range(tp.ranks)]
            wanted = [[one.cut.of_tp(tp.rank) for one in columns if one.tp == rank] for rank in range(tp.ranks)]
            got = self._exchange(sent, wanted, tp)
            by_owner = {rank: iter(tensors) for rank, tensors in enumerate(got)}
            parts = [next(by_owner[one.tp or 0]) for one in columns]
        sent = [
            [_cut(part, one.cut.shards, rank) for one, part in zip(columns, parts, strict=True)]
            for rank in range(shards.ranks)
        ]
        wanted = [
            [one.cut.piece(tp.rank, shards.rank) for one in self.dealt if one.shard == rank]
            for rank in range(shards.ranks)
        ]
        found = {rank: iter(tensors) for rank, tensors in enumerate(self._exchange(sent, wanted, shards))}
        return {one.parameter: next(found[one.shard]) for one in self.dealt}

    def _exchange(self, sent: list[list[Tensor]], wanted: list[list[torch.Size]], axis: Axis) -> list[list[Tensor]]:
        """Send each rank of the axis its tensors, and return those that each has sent, of the shapes `wanted`."""
        if axis.ranks == 1 or axis.group is None:
            return sent
        like = self.dealt[0].parameter
        nothing = torch.empty(0, dtype=like.dtype, device=like.device)
        given = torch.cat([nothing, *(tensor.reshape(-1) for tensors in sent for tensor in tensors)])
        taken = [sum(shape.numel() for shape in shapes) for shapes in wanted]
        received = torch.empty(sum(taken), dtype=like.dtype, device=like.device)
        counts = [sum(tensor.numel() for tensor in tensors) for tensors in sent]
        dist.all_to_all_single(received, given, taken, counts, group=axis.group)
        tensors = iter(torch.split(received, [shape.numel() for shapes in wanted for shape in shapes]))
        return [[next(tensors).view(shape) for shape in shapes] for shapes in wanted]


def _joined(parts: list[Tensor], axis: Axis) -> Tensor:
    """Return the whole of all ranks' parts; any of them where the axis does not cut."""
    if axis.dim is None or axis.ranks == 1:
        return parts[0]
    return torch.cat(parts, dim=axis.dim)


def _cut(whole: Tensor, axis: Axis, rank: int) -> Tensor:
    """Return one rank's part."""
    if axis.dim is None or axis.ranks == 1:
        return whole
    chunk = -(-whole.shape[axis.dim] // axis.ranks)
    start = min(chunk * rank, whole.shape[axis.dim])
    return whole.narrow(axis.dim, start, min(chunk, whole.shape[axis.dim] - start))
