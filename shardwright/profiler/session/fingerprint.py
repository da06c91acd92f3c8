"""The fingerprint of a profile's machine, as its readers compare it."""

import platform
import socket
from datetime import UTC, datetime

import psutil
import torch

from shardwright.base import SpecError, cpu_model, usable_cores
from shardwright.profiler.machine import reported_value
from shardwright.profiler.ranks import Ranks
from shardwright.profiler.timing import Machine, Work
from shardwright.specs import MachineFingerprint

_CALLS_FOR_CLOCK = 50


def machine_fingerprint(machine: Machine, ranks: Ranks, *, load: Work | None = None) -> MachineFingerprint:
    """Return the fingerprint of rank 0's machine, with the number of ranks and hosts. Every rank calls this.

    `load`: work during which the clock is read.

    Raises:
        SpecError: the ranks measure on different devices, or with different versions of torch.
    """
    host = socket.gethostname()
    mine = _device(machine) | {"torch": torch.__version__, "python": platform.python_version()}
    everyone: list[tuple[str, dict[str, str | None]]] = ranks.gather((host, mine))
    hosts = [name for name, _ in everyone]
    for rank, (name, theirs) in enumerate(everyone):
        for field, value in everyone[0][1].items():
            if theirs[field] != value:
                raise SpecError(
                    f"rank 0 on {hosts[0]} has {field} {value}, rank {rank} on {name} has {field} {theirs[field]}; "
                    "a profile is of one kind of machine: launch on nodes that are alike"
                )
    return MachineFingerprint(
        **mine,
        kind="cpu" if machine.device.type == "cpu" else "gpu",
        device_memory_bytes=_memory_bytes(machine, hosts.count(host)),
        clock_hz=_clock_hz(machine, load),
        host=host,
        cores=usable_cores(),
        threads=torch.get_num_threads(),
        ranks=ranks.size,
        nodes=len(set(hosts)),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _device(machine: Machine) -> dict[str, str | None]:
    if machine.device.type != "cuda":
        return {"device": cpu_model(), "driver": None, "cuda": None}
    return {
        "device": torch.cuda.get_device_name(machine.device),
        "driver": reported_value("driver_version"),
        "cuda": torch.version.cuda,
    }


def _memory_bytes(machine: Machine, ranks_on_host: int) -> float:
    if machine.device.type == "cuda":
        return float(torch.cuda.get_device_properties(machine.device).total_memory)
    return float(psutil.virtual_memory().total) / ranks_on_host


def _clock_hz(machine: Machine, load: Work | None) -> float | None:
    if load is not None:
        for _ in range(_CALLS_FOR_CLOCK if machine.device.type == "cuda" else 1):
            load()  # a GPU only starts these here, and runs them while the clock is read
    clock_hz = machine.clock_hz()
    machine.synchronize()
    return clock_hz
