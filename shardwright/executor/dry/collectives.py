"""The collectives among the operators of a step: which one, over which axis, and how many bytes."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import _resolve_process_group

from shardwright.specs import TrafficAxis

NAMESPACES = ("c10d", "_c10d_functional")
"""Where torch's collectives are: those of `torch.distributed`, and functional ones."""

_AXES: Mapping[str, TrafficAxis] = {
    "mesh_tp": "tp",
    "mesh_dp_shard": "dp",
    "mesh_dp_replicate": "dp",
    "tied_embedding": "dp",
    "mesh_cp": "cp",
    "mesh_ring": "cp",
    "mesh_trading": "cp",
    "mesh_ep": "ep",
    "mesh_etp": "tp",
    "mesh_pp": "pp",
}
"""The axis of each group by its description, which a device mesh makes of its dimension's name."""


class Collective(NamedTuple):
    """One call. `axis` is None for all ranks together. `size_bytes` as in `TracedTraffic`; `dtype` of the first tensor."""

    name: str
    axis: TrafficAxis | None
    size_bytes: int
    dtype: torch.dtype


class _Reading(NamedTuple):
    """How a call is read. `tensor`: the argument whose bytes count; `group`: the argument with its group; `gathers`: the bytes
    are those of the argument times the number of ranks."""

    name: str
    tensor: int
    group: int
    gathers: bool = False


_READINGS: Mapping[str, _Reading] = {
    "c10d::_allgather_base_": _Reading("all_gather", 0, 2),
    "c10d::_reduce_scatter_base_": _Reading("reduce_scatter", 1, 2),
    "c10d::allreduce_": _Reading("all_reduce", 0, 1),
    "c10d::alltoall_base_": _Reading("all_to_all", 1, 2),
    "c10d::broadcast_": _Reading("broadcast", 0, 1),
    "c10d::send": _Reading("send", 0, 1),
    "_c10d_functional::all_gather_into_tensor": _Reading("all_gather", 0, 2, gathers=True),
    "_c10d_functional::reduce_scatter_tensor": _Reading("reduce_scatter", 0, 3),
    "_c10d_functional::all_reduce": _Reading("all_reduce", 0, 2),
    "_c10d_functional::all_to_all_single": _Reading("all_to_all", 0, 3),
    "_c10d_functional::broadcast": _Reading("broadcast", 0, 2),
}
_MOVE_NOTHING = ("_c10d_functional::wait_tensor", "c10d::recv_", "c10d::barrier")
"""Waiting, and the other end of a send."""


def read_collective(func: Any, args: tuple[Any, ...]) -> Collective | None:
    """Return the collective that an operator of `NAMESPACES` is, None where it moves nothing or its group is one rank.

    Raises:
        NotImplementedError: the operator or its group is not known here, so that no traffic goes uncounted.
    """
    name = func.name().partition(".")[0]
    if name in _MOVE_NOTHING:
        return None
    if name not in _READINGS:
        raise NotImplementedError(f"the collective {name} is not counted by dry runs")
    reading = _READINGS[name]
    group = _group(args[reading.group])
    if group.size() == 1:
        return None
    given = args[reading.tensor]
    tensors: list[Tensor] = list(given) if isinstance(given, (list, tuple)) else [given]
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return Collective(reading.name, _axis(group), size * (group.size() if reading.gathers else 1), tensors[0].dtype)


def _group(given: Any) -> dist.ProcessGroup:
    named: Any = _resolve_process_group
    group: dist.ProcessGroup = named(given) if isinstance(given, str) else dist.ProcessGroup.unbox(given)
    return group


def _axis(group: dist.ProcessGroup) -> TrafficAxis | None:
    description = group.group_desc
    if group.group_name == dist.group.WORLD.group_name:  # type: ignore[union-attr]  # there is one in a dry run
        return None
    if description not in _AXES:
        raise NotImplementedError(f"the group '{description}' of {group.size()} ranks is no axis of a plan")
    return _AXES[description]
