"""Tensors whose elements stay in their files until a region of them is read.

Code that renames, cuts, joins and transposes weights, such as transformers' own conversions between its checkpoints and its modules,
runs on them as on any tensor. It reads nothing: what it does is recorded, and a rank then reads the elements of its own shard alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from .nodes import Cast, Held, Joined, Narrowed, Node, Permuted, Region, Selected, Stacked, viewed

_ATEN: Any = torch.ops.aten


class StoredTensor(Tensor):
    """A tensor with shape and type, on the CPU, whose elements `read` returns."""

    node: Node

    @staticmethod
    def __new__(cls, node: Node) -> "StoredTensor":
        made: StoredTensor = torch.Tensor._make_wrapper_subclass(cls, node.shape, dtype=node.dtype)
        return made

    def __init__(self, node: Node) -> None:
        self.node = node

    def read(self, region: Region | None = None) -> Tensor:
        """Return the elements of a region, None: all of them."""
        return self.node.whole() if region is None else self.node.read(region)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch types the method of its base as a C function
        cls, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        record = _RECORDED.get(func)
        if record is None:  # whatever else a conversion computes, it computes on the elements
            given = tree_map_only(StoredTensor, StoredTensor.read, (tuple(args), kwargs or {}))
            return tree_map_only(Tensor, lambda found: cls(Held(found)), func(*given[0], **given[1]))
        nodes = tree_map_only(Tensor, _node, tuple(args))
        return tree_map_only(Node, cls, record(*nodes, **(kwargs or {})))


def elements(tensor: Tensor, region: Region | None = None) -> Tensor:
    """Return the elements of a region of any tensor, None: all of them."""
    if isinstance(tensor, StoredTensor):
        return tensor.read(region)
    return tensor if region is None else tensor[region]


def _node(tensor: Tensor) -> Node:
    return tensor.node if isinstance(tensor, StoredTensor) else Held(tensor)


def _slice(node: Node, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Node:
    low, high, _ = slice(start, end).indices(node.shape[dim])
    if step != 1:
        every: list[slice] = [slice(None)] * len(node.shape)
        every[dim] = slice(low, high, step)
        return Held(node.whole()[tuple(every)])
    return Narrowed(node, dim % len(node.shape), low, max(0, high - low))


def _split(node: Node, size: int | Sequence[int], dim: int = 0) -> list[Node]:
    dim, whole = dim % len(node.shape), node.shape[dim % len(node.shape)]
    sizes = [min(size, whole - start) for start in range(0, whole, size)] if isinstance(size, int) else list(size)
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    return [Narrowed(node, dim, start, length) for start, length in zip(starts, sizes, strict=True)]


def _select(node: Node, dim: int, index: int) -> Node:
    dim %= len(node.shape)
    return Selected(node, dim, index % node.shape[dim])


def _squeeze(node: Node, dims: int | Sequence[int]) -> Node:
    given = [dims] if isinstance(dims, int) else dims
    for dim in sorted((dim % len(node.shape) for dim in given), reverse=True):
        node = Selected(node, dim, 0) if node.shape[dim] == 1 else node
    return node


def _transpose(node: Node, first: int = 0, second: int = 1) -> Node:
    order = list(range(len(node.shape)))
    order[first], order[second] = order[second], order[first]
    return Permuted(node, order)


def _view(node: Node, shape: Sequence[int]) -> Node:
    return viewed(node, torch.empty(node.shape, device="meta").view(tuple(shape)).shape)


def _to(node: Node, *, dtype: torch.dtype | None = None, **_options: Any) -> Node:
    return node if dtype in (None, node.dtype) else Cast(node, dtype or node.dtype)


_RECORDED: dict[Any, Callable[..., Node | list[Node]]] = {
    _ATEN.slice.Tensor: _slice,
    _ATEN.split.Tensor: _split,
    _ATEN.split_with_sizes.default: _split,
    _ATEN.select.int: _select,
    _ATEN.unbind.int: lambda node, dim=0: [_select(node, dim, index) for index in range(node.shape[dim])],
    _ATEN.squeeze.dim: _squeeze,
    _ATEN.squeeze.dims: _squeeze,
    _ATEN.unsqueeze.default: lambda node, dim: Stacked([node], dim % (len(node.shape) + 1)),
    _ATEN.cat.default: lambda nodes, dim=0: Joined(nodes, dim % len(nodes[0].shape)),
    _ATEN.stack.default: lambda nodes, dim=0: Stacked(nodes, dim % (len(nodes[0].shape) + 1)),
    _ATEN.transpose.int: _transpose,
    _ATEN.t.default: _transpose,
    _ATEN.permute.default: lambda node, order: Permuted(node, [dim % len(node.shape) for dim in order]),
    _ATEN.view.default: _view,
    _ATEN._unsafe_view.default: _view,
    _ATEN._to_copy.default: _to,
    _ATEN.clone.default: lambda node, **_options: node,
    _ATEN.detach.default: lambda node: node,
    _ATEN.alias.default: lambda node: node,
}
"""What is recorded of torch's operators; all take and return nodes."""
