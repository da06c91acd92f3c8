"""The mean of a vector over replicas: in full, or in few bits with or without error feedback."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

from shardwright.specs import sent_bytes

from .compression import decoded, encoded

_all_gather: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # its name until torch 2.12


@dataclass
class Errors:
    """What compression has left out so far on this rank: of what it sent, and of the mean of its part that it sent to all."""

    sent: Tensor
    mean: Tensor

    @classmethod
    def of(cls, sizes: Sequence[int], ranks: int, device: torch.device) -> "Errors":
        parts = sum(part_size(size, ranks) for size in sizes)
        return cls(torch.zeros(ranks, parts, device=device), torch.zeros(1, parts, device=device))


def part_size(size: int, ranks: int) -> int:
    """Return how many of `size` numbers each of `ranks` ranks adds up: a multiple of 8."""
    return -(-size // (8 * ranks)) * 8


@torch.no_grad()
def mean_over(
    group: dist.ProcessGroup, values: Tensor, sizes: Sequence[int], bits: int | None, errors: Errors | None = None
) -> Tensor:
    """Return the mean of `values` (n,) fp32 over the ranks of `group`, equal on all to the bit.

    `sizes`: of the sections of `values`, which are compressed each by itself and travel in one message.
    In few bits every rank adds up a part of the vector and sends its mean, compressed again, to all (arXiv 2102.02888). With `errors`
    what compression leaves out is added to the next message, and they are updated.
    """
    ranks = dist.get_world_size(group)
    if bits is None:
        total = values.clone()
        dist.all_reduce(total, group=group)
        return total / ranks
    parts = [part_size(size, ranks) for size in sizes]
    wanted = _in_parts(torch.split(values, list(sizes)), parts, ranks)
    if errors is not None:
        wanted = wanted + errors.sent
    sent = _encoded(wanted, parts, bits)
    if errors is not None:
        errors.sent.copy_(wanted - _decoded(sent, parts, bits))
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent, group=group)
    mean = _decoded(received, parts, bits).mean(dim=0, keepdim=True)
    if errors is not None:
        mean = mean + errors.mean
    again = _encoded(mean, parts, bits)
    if errors is not None:
        errors.mean.copy_(mean - _decoded(again, parts, bits))
    gathered = torch.empty(again.numel() * ranks, dtype=torch.uint8, device=again.device)
    _all_gather(gathered, again.flatten(), group=group)
    found = torch.split(_decoded(gathered.view(ranks, -1), parts, bits), parts, dim=1)
    return torch.cat([section.flatten()[:size] for section, size in zip(found, sizes, strict=True)])


def _in_parts(sections: Sequence[Tensor], parts: Sequence[int], ranks: int) -> Tensor:
    """Return (ranks, sum of parts): each section filled up with zeros and cut into `ranks` parts."""
    filled = [
        pad(section, (0, ranks * part - len(section))).view(ranks, part)
        for section, part in zip(sections, parts, strict=True)
    ]
    return torch.cat(filled, dim=1)


def _encoded(values: Tensor, parts: Sequence[int], bits: int) -> Tensor:
    return torch.cat([encoded(section, bits) for section in torch.split(values, list(parts), dim=1)], dim=1)


def _decoded(sent: Tensor, parts: Sequence[int], bits: int) -> Tensor:
    widths = [int(sent_bytes(part, bits, 1)) for part in parts]
    sections = zip(torch.split(sent, widths, dim=1), parts, strict=True)
    return torch.cat([decoded(section, part, bits) for section, part in sections], dim=1)
