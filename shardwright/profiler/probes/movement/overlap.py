"""The slowdown of compute beside a copy or a collective, and the slowdown of these."""

import math
import statistics
from collections.abc import Sequence

from shardwright.profiler.ranks import TorchRanks
from shardwright.profiler.timing import Machine, Work, busy_matmul
from shardwright.specs import Figure

from .collective import all_reduce_of_all
from .host_copy import HostCopyProbe

_GPU_COPY_BYTES, _CPU_COPY_BYTES = 2**26, 2**24
_GPU_COLLECTIVE_BYTES, _CPU_COLLECTIVE_BYTES = 2**26, 2**22
_REPEATS = 12


class CopyOverlapProbe:
    """Compute and a copy to the device at once (`FigureProbe`)."""

    name = "overlap with copies"

    def measure(self, machine: Machine) -> dict[str, Figure]:
        """`compute_slowdown_beside_copy` and `copy_slowdown_beside_compute`."""
        on_gpu = machine.device.type == "cuda"
        size_bytes = float(_GPU_COPY_BYTES if on_gpu else _CPU_COPY_BYTES)
        copy = HostCopyProbe("to_device", "pinned" if on_gpu else "pageable").prepare((size_bytes,), machine)
        return _slowdowns(machine, copy, "copy")


class CollectiveOverlapProbe:
    """Compute and an all-reduce of all ranks at once (`FigureProbe`)."""

    name = "overlap with collectives"

    def __init__(self, ranks: TorchRanks) -> None:
        self._ranks = ranks

    def measure(self, machine: Machine) -> dict[str, Figure]:
        """`compute_slowdown_beside_collective` and `collective_slowdown_beside_compute`.

        Raises:
            UnavailableError: there is only one rank.
        """
        size_bytes = _GPU_COLLECTIVE_BYTES if machine.device.type == "cuda" else _CPU_COLLECTIVE_BYTES
        collective = all_reduce_of_all(self._ranks, "overlap", size_bytes, machine)
        collective()
        return _slowdowns(machine, collective, "collective")


def lost_share(alone_seconds: Sequence[float], together_seconds: Sequence[float]) -> Figure:
    """Return the seconds lost to each second of the other work: 1 - alone / together, of the medians; 0 for no loss.

    `low` and `high`: the same with the quartiles of the repeats beside the other work.
    """
    alone = statistics.median(alone_seconds)
    ordered = sorted(together_seconds)
    quarter = (len(ordered) - 1) / 4
    at = (ordered[math.floor(quarter)], statistics.median(ordered), ordered[math.ceil(3 * quarter)])
    low, value, high = (max(0.0, 1 - alone / seconds) for seconds in at)
    return Figure(value=value, unit="s/s", meaning="", low=low, high=high)


def _slowdowns(machine: Machine, other: Work, name: str) -> dict[str, Figure]:
    compute = busy_matmul(machine)
    works = (compute, other)
    alone = [machine.seconds(work, _REPEATS) for work in works]
    together = machine.seconds_together(works, _REPEATS)
    of_compute, of_other = (lost_share(one, both) for one, both in zip(alone, together, strict=True))
    return {
        f"compute_slowdown_beside_{name}": of_compute.model_copy(
            update={"meaning": f"compute lost to each second of a {name} beside it"}
        ),
        f"{name}_slowdown_beside_compute": of_other.model_copy(
            update={"meaning": f"time that a {name} loses to each second of compute beside it"}
        ),
    }
