"""Memory outside tensors: of a process, of a communicator, of the allocator."""

from collections.abc import Callable

import psutil
import torch

from shardwright.profiler.ranks import TorchRanks
from shardwright.profiler.timing import Machine, UnavailableError
from shardwright.specs import Figure

from .activation_churn import ChurnSizes, churn
from .collective import all_reduce_of_all
from .fresh_process import FreshProcess, ask_fresh_process

_GPU_CHURN = ChurnSizes(tokens=2048, hidden=4096, dtype=torch.bfloat16)
_FIRST_MESSAGE_BYTES = 2**20

AskFreshProcess = Callable[[int | None, Callable[[], float]], tuple[FreshProcess, float]]


class ProcessMemoryProbe:
    """Memory of a process before its first tensor, and on a CPU also the allocator's bytes beyond the live tensors.

    A separate process is measured, because this one has already measured other operations. With several ranks on a CPU
    only the first measures, because they would not differ.
    """

    name = "memory of a process"

    def __init__(self, *, leads: bool = True, ask: AskFreshProcess = ask_fresh_process) -> None:
        """`leads`: whether this is rank 0."""
        self._leads, self._ask = leads, ask

    def measure(self, machine: Machine) -> dict[str, Figure]:
        """Return `context_bytes`; for a CPU also `allocator_overhead`.

        Raises:
            UnavailableError: the process does not start.
        """
        if machine.device.type == "cuda":
            return self._of_gpu(machine)
        if not self._leads:
            return {}
        told, _ = self._ask(None, lambda: 0.0)
        overhead = _overhead(told.churned_bytes, told.live_bytes, "resident memory", machine)
        return {"context_bytes": _context(told.resident_bytes, "host memory of a process"), **overhead}

    def _of_gpu(self, machine: Machine) -> dict[str, Figure]:
        """Measure how much the process reduces the free memory, so that other processes on the GPU don't count."""
        index = machine.device.index or 0
        before = machine.free_bytes()
        told, after = self._ask(index, machine.free_bytes)
        taken = before - after - told.reserved_bytes
        return {"context_bytes": _context(max(0.0, taken), "GPU memory of a process")}


class AllocatorProbe:
    """Bytes of a GPU that torch's allocator reserves beyond the live tensors (`FigureProbe`)."""

    name = "allocator overhead"

    def measure(self, machine: Machine) -> dict[str, Figure]:
        """Return `allocator_overhead`.

        Raises:
            UnavailableError: the device is no GPU, or too little of its memory is free.
        """
        if machine.device.type != "cuda":
            raise UnavailableError("a CPU's allocator is measured in a separate process")
        if 2 * _GPU_CHURN.peak_bytes > machine.free_bytes():
            raise UnavailableError(
                f"needs {2 * _GPU_CHURN.peak_bytes / 2**30:.1f} GiB, {machine.free_bytes() / 2**30:.1f} GiB are free"
            )
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(machine.device)
        reserved, allocated = (
            float(count(machine.device)) for count in (torch.cuda.memory_reserved, torch.cuda.memory_allocated)
        )
        churn(_GPU_CHURN, machine.device, lambda: None)
        held = torch.cuda.max_memory_reserved(machine.device) - reserved
        lived = torch.cuda.max_memory_allocated(machine.device) - allocated
        torch.cuda.empty_cache()
        return _overhead(held, lived, "reserved memory", machine)


class CommunicatorProbe:
    """Device memory that the first collective of a new group takes (`FigureProbe`)."""

    name = "memory of a communicator"

    def __init__(self, ranks: TorchRanks) -> None:
        self._ranks = ranks

    def measure(self, machine: Machine) -> dict[str, Figure]:
        """Return `communicator_bytes`, without the message itself.

        Raises:
            UnavailableError: there is only one rank.
        """
        taken = _taken_bytes(machine)
        self._ranks.barrier()
        before = taken()
        work = all_reduce_of_all(self._ranks, "communicator", _FIRST_MESSAGE_BYTES, machine)
        work()
        machine.synchronize()
        grown = taken() - before - work.given.nbytes
        self._ranks.barrier()
        figure = Figure(
            value=max(0.0, grown), unit="bytes", meaning=f"memory of one communicator of {self._ranks.size} ranks"
        )
        return {"communicator_bytes": figure}


def memory_probes(
    ranks: TorchRanks | None, machine: Machine
) -> list[ProcessMemoryProbe | AllocatorProbe | CommunicatorProbe]:
    """Return the probes that apply to this machine and launch; `ranks` is None for a single rank."""
    probes: list[ProcessMemoryProbe | AllocatorProbe | CommunicatorProbe] = [
        ProcessMemoryProbe(leads=ranks is None or ranks.rank == 0)
    ]
    if machine.device.type == "cuda":
        probes.append(AllocatorProbe())
    if ranks is not None and ranks.size > 1:
        probes.append(CommunicatorProbe(ranks))
    return probes


def _taken_bytes(machine: Machine) -> Callable[[], float]:
    """Return a reader of the device memory in use by all processes; on a CPU of this process's resident bytes."""
    if machine.device.type == "cuda":
        return lambda: -float(torch.cuda.mem_get_info(machine.device)[0])
    process = psutil.Process()
    return lambda: float(process.memory_info().rss)


def _context(value: float, what: str) -> Figure:
    return Figure(value=value, unit="bytes", meaning=f"{what} before its first tensor")


def _overhead(held_bytes: float, live_bytes: float, what: str, machine: Machine) -> dict[str, Figure]:
    """Return nothing where the process grew by less than its tensors, because it reused free memory."""
    if not live_bytes > 0:
        return {}
    meaning = f"{what} of a {machine.device.type} beyond the tensors that live, as a share of these"
    return {"allocator_overhead": Figure(value=max(0.0, held_bytes / live_bytes - 1), unit="share", meaning=meaning)}
