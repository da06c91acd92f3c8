"""The mean of a vector over replicas: in full, or in few bits with or without error feedback."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

from .compression import decoded, encoded

_all_gather: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # its name until torch 2.12


@dataclass
class Errors:
    """What compression has left out so far on this rank: of what it sent, and of the mean of its part that it sent to all."""

    sent: Tensor
    mean: Tensor

    @classmethod
    def of(cls, size: int, ranks: int, device: torch.device) -> "Errors":
        part = part_size(size, ranks)
        return cls(torch.zeros(ranks * part, device=device), torch.zeros(part, device=device))


def part_size(size: int, ranks: int) -> int:
    """Return how many of `size` numbers each of `ranks` ranks adds up: a multiple of 8."""
    return -(-size // (8 * ranks)) * 8


@torch.no_grad()
def mean_over(group: dist.ProcessGroup, values: Tensor, bits: int | None, errors: Errors | None = None) -> Tensor:
    """Return the mean of `values` (n,) fp32 over the ranks of `group`, equal on all to the bit.

    In few bits every rank adds up a part of the vector and sends its mean, compressed again, to all (arXiv 2102.02888). With `errors`
    what compression leaves out is added to the next message, and they are updated.
    """
    ranks = dist.get_world_size(group)
    if bits is None:
        total = values.clone()
        dist.all_reduce(total, group=group)
        return total / ranks
    part = part_size(len(values), ranks)
    wanted = pad(values, (0, ranks * part - len(values)))
    if errors is not None:
        wanted = wanted + errors.sent
    sent = encoded(wanted.view(ranks, part), bits)
    if errors is not None:
        errors.sent.copy_(wanted - decoded(sent, part, bits).flatten())
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent, group=group)
    mean = decoded(received, part, bits).mean(dim=0)
    if errors is not None:
        mean = mean + errors.mean
    again = encoded(mean[None], bits)
    if errors is not None:
        errors.mean.copy_(mean - decoded(again, part, bits)[0])
    gathered = torch.empty(again.numel() * ranks, dtype=torch.uint8, device=again.device)
    _all_gather(gathered, again.flatten(), group=group)
    return decoded(gathered.view(ranks, -1), part, bits).flatten()[: len(values)]
