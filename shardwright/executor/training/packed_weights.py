"""Stored weights that a run holds in NF4: packed when they are read."""

import torch
from torch import Tensor

from shardwright.executor.adapters import packed, packed_sizes
from shardwright.executor.weights import Node, Region, StoredTensor, elements


def packed_when_read(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a stored weight as bytes of NF4, made of it in `dtype` when they are read."""
    return StoredTensor(_Packed(weight, dtype))


class _Packed(Node):
    """A weight that is read whole for any region: its scales are of all of it."""

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        self.shape, self.dtype = (sum(packed_sizes(weight.numel())),), torch.uint8
        self._weight, self._format = weight, dtype

    def read(self, region: Region) -> Tensor:
        return packed(elements(self._weight).to(self._format))[region]
