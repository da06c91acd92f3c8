"""Copies between the device and its host, both ways: alone, beside the other way, and beside compute."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Literal, get_args

import torch

from shardwright.profiler.machine import available_memory_bytes
from shardwright.profiler.timing import Machine, Sizes, UnavailableError, Work, beside, busy_matmul
from shardwright.specs import Format

Direction = Literal["to_device", "to_host"]
HostMemory = Literal["pinned", "pageable"]
Company = Literal["alone", "together", "computing"]

# The middle first, then the ends, then sizes between them.
_SIZES_BYTES = (2**24, 2**20, 2**28, 2**16, 2**22, 2**30, 2**26, 2**18)
_LEAST_IN_COMPANY_BYTES = 2**20  # a shorter one ends before the work beside it has really begun
_UNIT_BYTES = 2**12
# Parts of this buffer are copied in turn, so that small copies don't stay in a cache. In training they would not.
_ROTATED_BYTES = 2**27
_HOST_SHARE = 0.9
_BUSY_BYTES = 2.0**27  # upper limit of the memory of `busy_matmul`


def host_copy_probes(machine: Machine) -> list["HostCopyProbe"]:
    """Return the copies that this device can do. A CPU copies within its host's memory, without page-locking."""
    on_gpu = machine.device.type == "cuda"
    memories: tuple[HostMemory, ...] = ("pinned", "pageable") if on_gpu else ("pageable",)
    alone = [HostCopyProbe(way, memory) for memory in memories for way in get_args(Direction)]
    busy: tuple[Company, ...] = ("together", "computing")
    return alone + [HostCopyProbe(way, memories[0], company) for company in busy for way in get_args(Direction)]


@dataclass(frozen=True)
class HostCopyProbe:
    """One direction (`Probe`). "together": beside the other direction; its variant starts with direction and memory."""

    direction: Direction
    memory: HostMemory
    company: Company = "alone"

    operation = "host_copy"
    format: Format | None = None
    axes = ("size_bytes",)

    @property
    def variant(self) -> str:
        plain = f"{self.direction}-{self.memory}"
        return plain if self.company == "alone" else f"{plain}-{self.company}"

    def first_sizes(self) -> Sequence[Sizes]:
        least_bytes = 0 if self.company == "alone" else _LEAST_IN_COMPANY_BYTES
        return [(float(size_bytes),) for size_bytes in _SIZES_BYTES if size_bytes >= least_bytes]

    def needed_bytes(self, at: Sizes) -> float:
        """Device memory for one end of each direction. The same page-locked memory of the host is checked when it is
        allocated.

        It counts twice, because a CPU's memory holds both ends.
        """
        ways = 2 if self.company == "together" else 1
        return 2 * ways * _rotated_bytes(at[0]) + (_BUSY_BYTES if self.company == "computing" else 0)

    def between(self, one: Sizes, other: Sizes) -> Sizes | None:
        size_bytes = float(_UNIT_BYTES * max(1, round(math.sqrt(one[0] * other[0]) / _UNIT_BYTES)))
        return None if size_bytes in (one[0], other[0]) else (size_bytes,)

    def prepare(self, at: Sizes, machine: Machine) -> Work:
        """Allocate both ends and return the work.

        Raises:
            UnavailableError: page-locked memory without a GPU, or more of it than the host has.
        """
        on_gpu = machine.device.type == "cuda"
        if self.memory == "pinned" and not on_gpu:
            raise UnavailableError(
                "page-locked memory needs a GPU: copies within a CPU's memory are measured as pageable"
            )
        needed_bytes, free_bytes = self.needed_bytes(at) / 2, _HOST_SHARE * available_memory_bytes()
        if on_gpu and needed_bytes > free_bytes:
            raise UnavailableError(
                f"copies of {at[0] / 2**20:.0f} MiB take {needed_bytes / 2**30:.1f} GiB of the host, which has {free_bytes / 2**30:.1f} GiB left"
            )
        work = _copies(self.direction, self.memory, at[0], machine)
        if self.company == "together":
            way_back: Direction = "to_host" if self.direction == "to_device" else "to_device"
            return beside(work, _copies(way_back, self.memory, at[0], machine), machine)
        return beside(work, busy_matmul(machine), machine) if self.company == "computing" else work


def _rotated_bytes(size_bytes: float) -> float:
    return max(size_bytes, _ROTATED_BYTES // size_bytes * size_bytes)


def _copies(direction: Direction, memory: HostMemory, size_bytes: float, machine: Machine) -> Work:
    """Each call copies the next part of one large buffer into the same part of another."""
    total, part = round(_rotated_bytes(size_bytes)), round(size_bytes)
    # written to, not only reserved: all pages without a write share one physical page
    host = torch.ones(total, dtype=torch.uint8, pin_memory=memory == "pinned")
    device = torch.ones(total, dtype=torch.uint8, device=machine.device)
    source, target = (host, device) if direction == "to_device" else (device, host)
    pairs = cycle([(target[begin : begin + part], source[begin : begin + part]) for begin in range(0, total, part)])
    pinned = memory == "pinned"

    def copy() -> torch.Tensor:
        into, given = next(pairs)
        return into.copy_(given, non_blocking=pinned)

    return copy
