"""Memory that no tensor accounts for: of a process, of a communicator, of the allocator."""

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
    """What a process holds before its first tensor, and on a CPU what its allocator takes beyond the tensors that live.

    A process of its own is looked at, because this one has measured other things already. With several ranks only the first
    of them asks on a CPU: they would not differ.
    """

    name = "memory of a process"

    def __init__(self, *, leads: bool = True, ask: AskFreshProcess = ask_fresh_process) -> None:
        """`leads`: whether this is rank 0."""
        self._leads, self._ask = leads, ask

    def measure(self, machine: Machine) -> dict[str, Figure]:
        """`context_bytes`; of a CPU also `allocator_overhead`.

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
        """The difference that the process makes to what is free: others on the GPU do not count."""
        index = machine.device.index or 0
        before = machine.free_bytes()
        told, after = self._ask(index, machine.free_bytes)
        taken = before - after - told.reserved_bytes
        return {"context_bytes": _context(max(0.0, taken), "GPU memory of a process")}


class AllocatorProbe:
    """What torch's allocator reserves of a GPU beyond the tensors that live (`FigureProbe`)."""

    name = "allocator overhead"

    def measure(self, machine: Machine) -> dict[str, Figure]:
        """`allocator_overhead`.

        Raises:
            UnavailableError: not a GPU, whose allocator it is, or too little of its memory is free.
        """
        if machine.device.type != "cuda":
            raise UnavailableError("a CPU's allocator is looked at in a process of its own")
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
    """What a new group's first collective takes of the device's memory (`FigureProbe`)."""

    name = "memory of a communicator"

    def __init__(self, ranks: TorchRanks) -> None:
        self._ranks = ranks

    def measure(self, machine: Machine) -> dict[str, Figure]:
        """`communicator_bytes`, beyond the message itself.

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
    """Those that say something on this machine and launch; `ranks` is None where there is one."""
    probes: list[ProcessMemoryProbe | AllocatorProbe | CommunicatorProbe] = [
        ProcessMemoryProbe(leads=ranks is None or ranks.rank == 0)
    ]
    if machine.device.type == "cuda":
        probes.append(AllocatorProbe())
    if ranks is not None and ranks.size > 1:
        probes.append(CommunicatorProbe(ranks))
    return probes


def _taken_bytes(machine: Machine) -> Callable[[], float]:
    """Device memory in use, whoever reserved it; of a CPU what this process has resident."""
    if machine.device.type == "cuda":
        return lambda: -float(torch.cuda.mem_get_info(machine.device)[0])
    process = psutil.Process()
    return lambda: float(process.memory_info().rss)


def _context(value: float, what: str) -> Figure:
    return Figure(value=value, unit="bytes", meaning=f"{what} before its first tensor")


def _overhead(held_bytes: float, live_bytes: float, what: str, machine: Machine) -> dict[str, Figure]:
    """None where the process grew by less than its tensors: it had memory in stock."""
    if not live_bytes > 0:
        return {}
    meaning = f"{what} of a {machine.device.type} beyond the tensors that live, as a share of these"
    return {"allocator_overhead": Figure(value=max(0.0, held_bytes / live_bytes - 1), unit="share", meaning=meaning)}
