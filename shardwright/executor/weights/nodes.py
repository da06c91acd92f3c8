"""What a stored tensor is made of: parts of files, and cuts, joins and exchanges of dimensions that only change which elements are read."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Region = tuple[slice, ...]
"""A start and a stop in each dimension."""


class Node(ABC):
    """Elements of `shape` and `dtype` that are somewhere else until `read`."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @abstractmethod
    def read(self, region: Region) -> Tensor:
        """Return the elements of a region, on the CPU."""

    def whole(self) -> Tensor:
        return self.read(tuple(slice(0, size) for size in self.shape))


@dataclass(frozen=True, eq=False)
class InFile(Node):
    """A tensor of a safetensors file. `open_slice` returns its slice object, which reads the asked elements alone."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    open_slice: Callable[[], Any]

    def read(self, region: Region) -> Tensor:
        found: Tensor = self.open_slice()[region if region else ...]
        return found


@dataclass(frozen=True, eq=False)
class Held(Node):
    """A tensor in memory."""

    tensor: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.tensor.shape))
        object.__setattr__(self, "dtype", self.tensor.dtype)

    def read(self, region: Region) -> Tensor:
        return self.tensor[region]


class Pieces(Node):
    """A tensor that lies in pieces, such as the shards of several ranks. `pieces`: where each begins, and the piece.

    Every element is in one piece or more.
    """

    def __init__(self, shape: tuple[int, ...], pieces: Sequence[tuple[tuple[int, ...], Node]]) -> None:
        self.shape, self.dtype, self._pieces = shape, pieces[0][1].dtype, tuple(pieces)

    def read(self, region: Region) -> Tensor:
        if len(self._pieces) == 1:
            return self._pieces[0][1].read(region)
        found = torch.empty([bound.stop - bound.start for bound in region], dtype=self.dtype)
        for offsets, piece in self._pieces:
            common = [
                (max(bound.start, offset), min(bound.stop, offset + size))
                for bound, offset, size in zip(region, offsets, piece.shape, strict=True)
            ]
            if all(low < high for low, high in common):
                inside = tuple(
                    slice(low - offset, high - offset) for (low, high), offset in zip(common, offsets, strict=True)
                )
                target = tuple(
                    slice(low - bound.start, high - bound.start)
                    for (low, high), bound in zip(common, region, strict=True)
                )
                found[target] = piece.read(inside)
        return found


class Mean(Node):
    """The mean of tensors of one shape, in their own type."""

    def __init__(self, sources: Sequence[Node]) -> None:
        self.shape, self.dtype, self._sources = sources[0].shape, sources[0].dtype, tuple(sources)

    def read(self, region: Region) -> Tensor:
        total = self._sources[0].read(region).double()
        for source in self._sources[1:]:
            total += source.read(region)
        return (total / len(self._sources)).to(self.dtype)


class Narrowed(Node):
    """Elements `start` to `start + length` of a dimension."""

    def __init__(self, source: Node, dim: int, start: int, length: int) -> None:
        self.source, self.dim, self.start, self.dtype = source, dim, start, source.dtype
        self.shape = (*source.shape[:dim], length, *source.shape[dim + 1 :])

    def read(self, region: Region) -> Tensor:
        own = region[self.dim]
        moved = slice(own.start + self.start, own.stop + self.start)
        return self.source.read((*region[: self.dim], moved, *region[self.dim + 1 :]))


class Selected(Node):
    """One index of a dimension, which is then gone."""

    def __init__(self, source: Node, dim: int, index: int) -> None:
        self.source, self.dim, self.index, self.dtype = source, dim, index, source.dtype
        self.shape = (*source.shape[:dim], *source.shape[dim + 1 :])

    def read(self, region: Region) -> Tensor:
        return self.source.read((*region[: self.dim], slice(self.index, self.index + 1), *region[self.dim :])).squeeze(
            self.dim
        )


class Joined(Node):
    """Tensors one behind the other along a dimension.

    Raises:
        ValueError: their other dimensions differ.
    """

    def __init__(self, parts: Sequence[Node], dim: int) -> None:
        self.parts, self.dim, self.dtype = tuple(parts), dim, parts[0].dtype
        others = {(*part.shape[:dim], *part.shape[dim + 1 :]) for part in parts}
        if len(others) != 1:
            raise ValueError(f"tensors of {' and '.join(map(str, sorted(others)))} cannot be joined")
        joined = sum(part.shape[dim] for part in parts)
        self.shape = (*parts[0].shape[:dim], joined, *parts[0].shape[dim + 1 :])

    def read(self, region: Region) -> Tensor:
        own, begin, found = region[self.dim], 0, []
        for part in self.parts:
            low, high = max(own.start, begin), min(own.stop, begin + part.shape[self.dim])
            if low < high:
                found.append(
                    part.read((*region[: self.dim], slice(low - begin, high - begin), *region[self.dim + 1 :]))
                )
            begin += part.shape[self.dim]
        if not found:
            return torch.empty([bound.stop - bound.start for bound in region], dtype=self.dtype)
        return found[0] if len(found) == 1 else torch.cat(found, self.dim)


class Stacked(Node):
    """Tensors along a new dimension.

    Raises:
        ValueError: their shapes differ.
    """

    def __init__(self, parts: Sequence[Node], dim: int) -> None:
        self.parts, self.dim, self.dtype = tuple(parts), dim, parts[0].dtype
        shapes = {part.shape for part in parts}
        if len(shapes) != 1:
            raise ValueError(f"tensors of {' and '.join(map(str, sorted(shapes)))} cannot be stacked")
        self.shape = (*parts[0].shape[:dim], len(parts), *parts[0].shape[dim:])

    def read(self, region: Region) -> Tensor:
        own, rest = region[self.dim], (*region[: self.dim], *region[self.dim + 1 :])
        if own.stop <= own.start:
            return torch.empty([bound.stop - bound.start for bound in region], dtype=self.dtype)
        return torch.stack([part.read(rest) for part in self.parts[own]], self.dim)


class Permuted(Node):
    """Dimensions in another order."""

    def __init__(self, source: Node, order: Sequence[int]) -> None:
        self.source, self.order, self.dtype = source, tuple(order), source.dtype
        self.shape = tuple(source.shape[dim] for dim in self.order)

    def read(self, region: Region) -> Tensor:
        inner = [slice(0)] * len(self.order)
        for bound, dim in zip(region, self.order, strict=True):
            inner[dim] = bound
        return self.source.read(tuple(inner)).permute(self.order)


class Cast(Node):
    """Another type of number."""

    def __init__(self, source: Node, dtype: torch.dtype) -> None:
        self.source, self.dtype, self.shape = source, dtype, source.shape

    def read(self, region: Region) -> Tensor:
        return self.source.read(region).to(self.dtype)


def viewed(node: Node, shape: Sequence[int]) -> Node:
    """Return the elements in another shape. One dimension may become several, or several one; other views are read at once."""
    groups = _grouped(node.shape, shape)
    if any(len(old) > 1 and len(new) > 1 for old, new in groups):
        return Held(node.whole().reshape(tuple(shape)))
    dim = 0
    for old, new in groups:
        if not old:  # a dimension of 1 behind the last
            node = Stacked([node], dim)
        elif len(old) > 1:
            node = _flattened(node, dim, len(old))
        elif len(new) != 1:
            node = _unflattened(node, dim, new)
        dim += len(new)
    return node


def _grouped(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Return the smallest runs of dimensions with equal numbers of elements, in order."""
    groups, first, second = [], list(old), list(new)
    while first or second:
        left, right = [first.pop(0)] if first else [], [second.pop(0)] if second else []
        while math.prod(left) != math.prod(right):
            if (math.prod(left) < math.prod(right) and first) or not second:
                left.append(first.pop(0))
            else:
                right.append(second.pop(0))
        groups.append((left, right))
    return groups


def _flattened(node: Node, dim: int, count: int) -> Node:
    if count == 1:
        return node
    parts = [_flattened(Selected(node, dim, index), dim, count - 1) for index in range(node.shape[dim])]
    return Joined(parts, dim)


def _unflattened(node: Node, dim: int, sizes: Sequence[int]) -> Node:
    if not sizes:
        return Selected(node, dim, 0)
    if len(sizes) == 1:
        return node
    rest = math.prod(sizes[1:])
    parts = [_unflattened(Narrowed(node, dim, index * rest, rest), dim, sizes[1:]) for index in range(sizes[0])]
    return Stacked(parts, dim)
