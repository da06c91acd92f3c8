"""The two kinds of machine: a CUDA device, timed by events, and a CPU, timed by the clock."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import psutil
import torch

from shardwright.profiler.machine import available_memory_bytes, last_cache_bytes, reported_value
from shardwright.profiler.ranks import AloneRanks, Ranks

from .probe import JointWork, Machine, Work
from .together import HostRunner, StreamRunner, repeats_of_each, run_together, seconds_between, while_all_ran

_LEAST_TIMED_SECONDS = 200e-6
_MOST_CALLS = 10_000
_FALLBACK_L2_BYTES = 64 * 2**20
_MOST_FLUSHES = 64
_HERTZ_PER_MEGAHERTZ = 1e6


def machine_here(ranks: Ranks | None = None, *, local_rank: int = 0, ranks_on_node: int = 1) -> Machine:
    """Return the CUDA device number `local_rank` where there is one, the CPU otherwise."""
    if torch.cuda.is_available():
        return CudaMachine(torch.device("cuda", local_rank % torch.cuda.device_count()), ranks)
    return CpuMachine(ranks, ranks_on_node=ranks_on_node)


class CpuMachine:
    """This host's CPU, timed by the clock.

    Before each timed repeat a buffer as large as the last cache is written. In training, the inputs of a layer were
    written or read long before. Joint work of ranks would then wait for the rank that wrote the buffer last, so it runs
    without this. Joint work shorter than 200 us is repeated within one timing, and the time divided. The count is that
    of rank 0, because a collective that one rank calls more often never ends. `ranks_on_node` share memory and cache.
    """

    def __init__(self, ranks: Ranks | None = None, *, ranks_on_node: int = 1) -> None:
        self._ranks = ranks or AloneRanks()
        self._ranks_on_node = ranks_on_node
        self._flushed = torch.zeros(last_cache_bytes() // (4 * ranks_on_node))

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def seconds(self, work: Work, repeats: int) -> list[float]:
        if not isinstance(work, JointWork):
            return [self._cold_seconds(work) for _ in range(repeats)]
        first = _elapsed_seconds(work)
        calls = self._ranks.tell(_calls_per_timing(first))
        if calls > 1:
            return [_elapsed_seconds(work, calls) for _ in range(repeats)]
        return [first] + [_elapsed_seconds(work) for _ in range(repeats - 1)]

    def _cold_seconds(self, work: Work) -> float:
        self._flushed.add_(1.0)
        return _elapsed_seconds(work)

    def seconds_together(self, works: Sequence[Work], repeats: int) -> list[list[float]]:
        alone = [statistics.median(self.seconds(work, 3)) for work in works]
        alone = self._ranks.tell(alone)
        runners = [HostRunner(work, _calls_per_timing(seconds)) for work, seconds in zip(works, alone, strict=True)]
        lasting = [seconds * runner.calls for seconds, runner in zip(alone, runners, strict=True)]
        run_together(runners, repeats_of_each(lasting, repeats))
        return while_all_ran([runner.spans for runner in runners])

    def host_seconds(self, work: Work, repeats: int) -> list[float]:
        return self.seconds(work, repeats)

    def synchronize(self) -> None:
        return None

    def free_bytes(self) -> float:
        return available_memory_bytes() / self._ranks_on_node

    def clock_hz(self) -> float | None:
        with suppress(OSError, NotImplementedError, RuntimeError):
            frequency = psutil.cpu_freq()
            if frequency is not None and frequency.current > 0:
                return float(frequency.current) * _HERTZ_PER_MEGAHERTZ
        return None

    def power_watts(self) -> float | None:
        return None


class CudaMachine:
    """A CUDA device, timed by events on the current stream.

    Before each timed repeat, outside its events, a buffer of twice the L2 cache is written. The operands then come from
    memory, as in training. The device is busy while the host launches the work, so the launch time does not count. The
    buffer is written as often as launching takes.
    """

    def __init__(self, device: torch.device, ranks: Ranks | None = None) -> None:
        self._device = device
        self._ranks = ranks or AloneRanks()
        self._properties = torch.cuda.get_device_properties(device)
        l2_bytes = int(getattr(self._properties, "L2_cache_size", 0) or _FALLBACK_L2_BYTES)
        self._flushed = torch.empty(2 * l2_bytes, dtype=torch.int8, device=device)
        self._flush_seconds: float | None = None

    @property
    def device(self) -> torch.device:
        return self._device

    def seconds(self, work: Work, repeats: int) -> list[float]:
        with torch.cuda.device(self._device):
            flushes = self._flushes_while(_elapsed_seconds(work))
            self.synchronize()
            starts, ends = self._events(repeats), self._events(repeats)
            for start, end in zip(starts, ends, strict=True):
                for _ in range(flushes):
                    self._flushed.zero_()
                start.record()
                work()
                end.record()
            self.synchronize()
            return [seconds_between(start, end) for start, end in zip(starts, ends, strict=True)]

    def seconds_together(self, works: Sequence[Work], repeats: int) -> list[list[float]]:
        alone = self._ranks.tell([statistics.median(self.seconds(work, 3)) for work in works])
        counts = repeats_of_each(alone, repeats)
        with torch.cuda.device(self._device):
            begin = self._events(1)[0]
            runners = [
                StreamRunner(work, self._device, begin, self._events(count), self._events(count))
                for work, count in zip(works, counts, strict=True)
            ]
            self.synchronize()
            begin.record()
            run_together(runners, counts)
            self.synchronize()
            return while_all_ran([runner.spans for runner in runners])

    def host_seconds(self, work: Work, repeats: int) -> list[float]:
        with torch.cuda.device(self._device):
            seconds: list[float] = []
            for _ in range(repeats):
                self.synchronize()
                seconds.append(_elapsed_seconds(work))
            self.synchronize()
            return seconds

    def synchronize(self) -> None:
        torch.cuda.synchronize(self._device)

    def free_bytes(self) -> float:
        """Return the free memory of the driver plus the unused memory of torch's allocator."""
        free, _ = torch.cuda.mem_get_info(self._device)
        kept = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return float(free + kept)

    def clock_hz(self) -> float | None:
        """Read it by NVML where its Python package is installed, by nvidia-smi otherwise."""
        try:
            megahertz: float | None = torch.cuda.clock_rate(self._device)
        except (ImportError, RuntimeError, AttributeError, OSError):
            megahertz = None
        if not megahertz:
            megahertz = self._reported("clocks.sm")
        return megahertz * _HERTZ_PER_MEGAHERTZ if megahertz else None

    def power_watts(self) -> float | None:
        """Read it by nvidia-smi."""
        return self._reported("power.draw")

    def _reported(self, field: str) -> float | None:
        told = reported_value(field, uuid=getattr(self._properties, "uuid", None))
        with suppress(TypeError, ValueError):
            return float(told)  # type: ignore[arg-type]  # None is a TypeError, and means the same
        return None

    def _flushes_while(self, launch_seconds: float) -> int:
        """Return how often the buffer is written to keep the device busy for 1.5 times `launch_seconds`."""
        if self._flush_seconds is None:
            self._flushed.zero_()
            start, end = self._events(2)
            start.record()
            self._flushed.zero_()
            end.record()
            self.synchronize()
            self._flush_seconds = seconds_between(start, end)
        if not self._flush_seconds > 0:
            return 1
        return min(_MOST_FLUSHES, max(1, math.ceil(1.5 * launch_seconds / self._flush_seconds)))

    def _events(self, count: int) -> list[torch.cuda.Event]:
        return [torch.cuda.Event(enable_timing=True) for _ in range(count)]  # type: ignore[no-untyped-call]  # torch's


def _calls_per_timing(seconds: float) -> int:
    if seconds >= _LEAST_TIMED_SECONDS:
        return 1
    return min(_MOST_CALLS, math.ceil(_LEAST_TIMED_SECONDS / max(seconds, 1e-9)))


def _elapsed_seconds(work: Callable[[], object], calls: int = 1) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - start) / calls
