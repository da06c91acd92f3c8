"""All ranks at one piece of work: rank 0 orders, every rank does the same at
the same time, and all learn the result."""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, get_args

import torch

from shardwright.base import units
from shardwright.costmodel.op_times import CollectiveName
from shardwright.profiler.ranks import Ranks
from shardwright.profiler.timing import (
    CpuMachine,
    FigureProbe,
    Machine,
    Outcome,
    Probe,
    Sizes,
    TroubleError,
    Work,
    attempt,
    message_line,
    reference_work,
)
from shardwright.specs import Figure, LayerCheck, Profile

from .interruption import InterruptedBySignalError, Interruption
from .orders import CheckLayers, End, FreeBytes, MeasureFigures, Order, Prepare, Reference, Release, Repeat
from .stopped import CrewLostError, DeviceGoneError

USABLE_SHARE = 0.85
"""Share of the free memory that may be used: other programs need some, and allocators round up."""

_HOST_OPERATIONS = frozenset({"host_adamw", "disk_read", "disk_write"})
_TWICE_BELOW_SECONDS = 0.1

LayerChecks = Callable[[Machine, Profile], Sequence[LayerCheck]]


class Crew:
    """The ranks, their machines and the work that each has prepared.

    Rank 0 calls the public methods; the other ranks are in `serve` meanwhile. In every method all ranks gather the
    results before they continue. Trouble on one rank is then trouble on all, and no rank is left waiting.
    """

    def __init__(
        self,
        machine: Machine,
        probes: Sequence[Probe],
        figures: Sequence[FigureProbe],
        *,
        ranks: Ranks,
        interruption: Interruption,
        layers: LayerChecks | None = None,
    ) -> None:
        self._machine = machine
        self._host = machine if machine.device.type == "cpu" else CpuMachine(ranks)
        self._probes, self._figures, self._layers = probes, figures, layers
        self._ranks = ranks
        self._interruption = interruption
        self._works: dict[int, tuple[Machine, Work, bool]] = {}
        self._reference: Work | None = None
        self._lost = False

    # Called by rank 0

    def prepare(self, slot: int, probe: int, at: Sizes) -> float:
        """Make the operands of a size and run it once or twice. Return the seconds of one run, warm or nearly so.

        Raises:
            TroubleError: not enough memory, not available, or it failed.
            DeviceGoneError: it failed, and so does everything else.
        """
        return float(self._do(Prepare(slot, probe, at)))

    def repeat(self, slot: int, repeats: int) -> list[float]:
        """Return the seconds of each repeat of prepared work: the mean over ranks, or the last rank's for a collective.

        Raises:
            TroubleError, DeviceGoneError: as `prepare`.
        """
        return list(self._do(Repeat(slot, repeats)))

    def release(self) -> None:
        """Forget all prepared work, so that its memory is free again."""
        self._do(Release())

    def usable_bytes(self) -> float:
        """Return the device memory that may be used: that of the rank with least, minus a reserve."""
        return float(self._do(FreeBytes()))

    def reference_seconds(self, repeats: int) -> float:
        """Return the median seconds of a fixed matmul of medium size; its changes are those of the machine."""
        return float(self._do(Reference(repeats)))

    def figures(self, probe: int) -> dict[str, Figure]:
        """Return the result of a figure probe: the median over ranks.

        Raises:
            TroubleError, DeviceGoneError: as `prepare`.
        """
        figures: dict[str, Figure] = self._do(MeasureFigures(probe))
        return figures

    def check_layers(self, profile: Profile) -> tuple[LayerCheck, ...]:
        """Return the layer checks of rank 0.

        Raises:
            TroubleError, DeviceGoneError: as `prepare`.
        """
        return tuple(self._do(CheckLayers(profile)))

    def end(self, profile: Profile | None) -> None:
        """End the service of the other ranks, and give them the profile."""
        self._works.clear()
        if not self._lost:
            with suppress(RuntimeError, OSError):  # ranks that have gone need not be told
                self._ranks.tell(End(profile))

    # Called by the others

    def serve(self) -> Profile | None:
        """Follow the orders of rank 0 until it ends; return the profile that it ended with, if it had one.

        Raises:
            CrewLostError: another rank is gone.
        """
        while True:
            try:
                order = self._ranks.tell(None)
                if isinstance(order, End):
                    return order.profile
                self._obey(order)
            except (TroubleError, DeviceGoneError):
                continue  # rank 0 has seen the same, and decides
            except (RuntimeError, OSError) as error:
                raise CrewLostError(f"a rank does not answer any more ({message_line(error)})") from None

    # Done by every rank

    def _do(self, order: Order) -> Any:
        if self._ranks.size == 1:
            return self._obey(order)
        try:
            with self._interruption.together():
                self._ranks.tell(order)
                return self._obey(order)
        except (TroubleError, DeviceGoneError):
            raise
        except (RuntimeError, OSError) as error:  # the work itself never raises these, so telling or gathering did
            self._lost = True
            raise CrewLostError(f"a rank does not answer any more ({message_line(error)})") from None
        except InterruptedBySignalError:
            self._lost = self._interruption.forced  # a first signal waited until the order was done
            raise
        except BaseException:
            self._lost = True
            raise

    def _obey(self, order: Order) -> Any:
        match order:
            case Prepare():
                return self._prepare_here(order)
            case Repeat():
                machine, work, waits = self._works[order.slot]
                self._ranks.barrier()
                repeats = order.repeats
                return _combined(self._all(lambda: machine.seconds(work, repeats)), last=waits)
            case Release():
                self._works.clear()
            case FreeBytes():
                return USABLE_SHARE * min(self._all(self._machine.free_bytes))
            case Reference():
                work = self._reference_work()
                return statistics.median(
                    _combined(self._all(lambda: self._machine.seconds(work, order.repeats)), last=False)
                )
            case MeasureFigures():
                return _median_figures(self._all(lambda: self._figures[order.probe].measure(self._machine)))
            case CheckLayers():
                assert self._layers is not None
                layers = self._layers
                return self._all(lambda: list(layers(self._machine, order.profile)))[0]
        return None

    def _prepare_here(self, order: Prepare) -> float:
        probe = self._probes[order.probe]
        machine = self._host if probe.operation in _HOST_OPERATIONS else self._machine
        seconds: float
        try:
            self._all(lambda: _check_memory(machine, probe, order.at))
            work: list[Work] = []
            self._all(lambda: work.append(probe.prepare(order.at, self._machine)))
            seconds = max(self._all(lambda: _first_seconds(machine, work[0])))
            if seconds < _TWICE_BELOW_SECONDS:  # the same on every rank, because all know the slowest
                seconds = max(self._all(lambda: machine.seconds(work[0], 1)[0]))
        except TroubleError:
            work = []
            self._free()
            raise
        self._works[order.slot] = (machine, work[0], probe.operation in get_args(CollectiveName))
        return seconds

    def _all(self, act: Callable[[], Any]) -> list[Any]:
        """Return the result of `act` on each rank.

        Raises:
            TroubleError: it failed on one of them.
            DeviceGoneError: it failed, and so does everything else.
        """
        outcomes: list[Outcome] = self._ranks.gather(attempt(act))
        troubled = [(rank, outcome) for rank, outcome in enumerate(outcomes) if outcome.trouble]
        if not troubled:
            return [outcome.value for outcome in outcomes]
        if any(outcome.trouble == "failed" for _, outcome in troubled):
            self._look_alive()
        rank, first = troubled[0]
        where = f"rank {rank}: " if len(troubled) < len(outcomes) else ""
        assert first.trouble is not None
        raise TroubleError(first.trouble, where + first.words)

    def _look_alive(self) -> None:
        """Check on every rank that the device still does the simplest work."""
        outcomes: list[Outcome] = self._ranks.gather(attempt(self._simplest))
        for rank, outcome in enumerate(outcomes):
            if outcome.trouble:
                where = f"rank {rank}: " if len(outcomes) > 1 else ""
                raise DeviceGoneError(f"{where}the device does not answer any more ({outcome.words})")

    def _simplest(self) -> None:
        torch.zeros(8, device=self._machine.device).add_(1)
        self._machine.synchronize()

    def _reference_work(self) -> Work:
        if self._reference is None:
            self._reference = reference_work(self._machine)
            self._reference()
        return self._reference

    def _free(self) -> None:
        """Free memory after trouble: objects in reference cycles, and blocks in the allocator."""
        gc.collect()
        if self._machine.device.type == "cuda":
            torch.cuda.empty_cache()


def _check_memory(machine: Machine, probe: Probe, at: Sizes) -> None:
    needed, usable = probe.needed_bytes(at), USABLE_SHARE * machine.free_bytes()
    if needed > usable:
        raise MemoryError(f"needs {units.size(needed)}, {units.size(usable)} may be taken")


def _first_seconds(machine: Machine, work: Work) -> float:
    """Time the first run, which makes kernels and buffers. It must not use `machine.seconds`, in which
    ranks communicate: it may fail on one rank."""
    start = time.perf_counter()
    work()
    machine.synchronize()
    return time.perf_counter() - start


def _combined(by_rank: Sequence[Sequence[float]], *, last: bool) -> list[float]:
    """Combine the ranks for each repeat. A collective ends with its last
    rank; other work counts the mean over ranks."""
    pick: Callable[[Sequence[float]], float] = max if last else statistics.fmean
    return [pick(each) for each in zip(*by_rank, strict=True)]


def _median_figures(by_rank: Sequence[dict[str, Figure]]) -> dict[str, Figure]:
    if len(by_rank) == 1:
        return by_rank[0]
    combined: dict[str, Figure] = {}
    for name, figure in by_rank[0].items():
        seen = [figures[name] for figures in by_rank if name in figures]
        lows = [each.value if each.low is None else each.low for each in seen]
        highs = [each.value if each.high is None else each.high for each in seen]
        middle = statistics.median(each.value for each in seen)
        combined[name] = figure.model_copy(update={"value": middle, "low": min(lows), "high": max(highs)})
    return combined
