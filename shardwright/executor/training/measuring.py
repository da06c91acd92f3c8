"""What a run's measurement says of its machine and of the offload engine."""

import platform
from datetime import UTC, datetime

import torch
import torch.distributed as dist

from shardwright.base import cpu_model
from shardwright.executor.offload import Kind, OffloadEngine, Place
from shardwright.specs import Fingerprint, HeldBytes, OffloadMeasurement


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
