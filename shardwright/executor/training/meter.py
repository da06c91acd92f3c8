"""What a run measures: seconds by part and peak memory of one rank, its machine, and what the offload engine held."""

import contextlib
import platform
import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
import torch.distributed as dist

from shardwright.base import cpu_model, return_freed_memory
from shardwright.executor.offload import Kind, OffloadEngine, Place
from shardwright.specs import Fingerprint, HeldBytes, OffloadMeasurement


class MemoryPeak(NamedTuple):
    """Bytes. `baseline`: in use before the model was built. `reserved`: by torch's allocator, None on a CPU."""

    peak: int
    baseline: int
    reserved: int | None


class StepMeter:
    """Seconds of each step and of its parts. It waits for the device at the end
    of each part, so that work counts there."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._parts: list[dict[str, float]] = []
        self._seconds: list[float] = []

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        self._parts.append({})
        begin = time.perf_counter()
        yield
        self._seconds.append(time.perf_counter() - begin)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._parts[-1][name] = self._parts[-1].get(name, 0.0) + time.perf_counter() - begin

    @property
    def last_seconds(self) -> float:
        return self._seconds[-1]

    @property
    def last_parts(self) -> dict[str, float]:
        return self._parts[-1]

    def left_out(self, warmup_steps: int) -> int:
        """Return how many first steps the timings leave out: `warmup_steps`, but never all of them."""
        return min(warmup_steps, len(self._seconds) - 1)

    def seconds_after(self, warmup_steps: int) -> list[float]:
        return self._seconds[self.left_out(warmup_steps) :]

    def part_medians_after(self, warmup_steps: int) -> dict[str, float]:
        timed = self._parts[self.left_out(warmup_steps) :]
        return {name: statistics.median(parts[name] for parts in timed) for name in timed[0]}


class MemoryMeter:
    """Peak memory since its creation: torch's allocator on a GPU, the resident set of this process on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        on_gpu = device.type == "cuda"
        self._forget()
        self._baseline = torch.cuda.memory_allocated(device) if on_gpu else psutil.Process().memory_info().rss
        self._earlier = MemoryPeak(self._baseline, self._baseline, 0 if on_gpu else None)

    def read(self) -> MemoryPeak:
        earlier = self._earlier
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device)
            reserved = max(earlier.reserved or 0, torch.cuda.max_memory_reserved(self._device))
            return MemoryPeak(max(earlier.peak, peak), self._baseline, reserved)
        return MemoryPeak(max(earlier.peak, _resident_peak()), self._baseline, None)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the memory of the block: writing a checkpoint is no part of a step."""
        self._earlier = self.read()
        yield
        self._forget()

    def _forget(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            _forget_resident_peak()


def _forget_resident_peak() -> None:
    """Reset the kernel's peak counter (proc(5), clear_refs), because importing libraries can need more than training.

    Memory that was freed is returned first: reused, it would hide what is allocated next.
    """
    return_freed_memory()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _resident_peak() -> int:
    """Return VmHWM of this process, or its current memory where there is no /proc.

    getrusage would also count the parent's pages.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return int(psutil.Process().memory_info().rss)
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return int(fields["VmHWM"].split()[0]) * 1024


def read_fingerprint(device: torch.device) -> Fingerprint:
    """Return this machine, its software and the time."""
    return Fingerprint(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model(),
        host=platform.node(),
        python=platform.python_version(),
        torch=torch.__version__,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def measure_offload(offload: OffloadEngine | None) -> OffloadMeasurement | None:
    """Return what the engines of all ranks held; every rank calls this. None without an engine."""
    if offload is None:
        return None
    offload.settle()
    ledger = offload.ledger
    gathered = [(ledger.peaks, ledger.peak_bytes("host"), ledger.limits["host"])] * dist.get_world_size()
    dist.all_gather_object(gathered, gathered[0])
    largest: dict[tuple[Kind, Place], int] = {}
    for peaks, _, _ in gathered:
        for key, held in peaks.items():
            largest[key] = max(held, largest.get(key, 0))
    return OffloadMeasurement(
        held=tuple(
            HeldBytes(kind=kind, place=place, peak_bytes=held) for (kind, place), held in sorted(largest.items())
        ),
        host_peak_bytes=tuple(peak for _, peak, _ in gathered),
        host_plan_bytes=tuple(limit for _, _, limit in gathered),
    )
