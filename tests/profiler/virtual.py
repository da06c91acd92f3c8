"""A machine whose time is a number: what it measures is exact, takes no time, and can be made to go wrong."""

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from shardwright.profiler.session.measure import ProfileRequest
from shardwright.profiler.timing.probe import Machine, Sizes, Work
from shardwright.specs.profile import Figure, Format

REFERENCE_SECONDS = 1e-3


class VirtualClock:
    """Seconds that pass only when something spends them."""

    def __init__(self) -> None:
        self.now = 0.0
        self.lap = 0.0

    def __call__(self) -> float:
        return self.now

    def spend(self, seconds: float) -> None:
        self.now += seconds
        self.lap += seconds


class VirtualMachine:
    """Work spends the clock's seconds; work that spends none is the reference matmul and takes `REFERENCE_SECONDS`.

    `slowness`: of the time, what all work is multiplied by.
    """

    device = torch.device("cpu")

    def __init__(
        self,
        clock: VirtualClock,
        *,
        free: Callable[[], float] = lambda: 1e9,
        slowness: Callable[[float], float] = lambda now: 1.0,
        clock_hz: float | None = None,
    ) -> None:
        self.clock = clock
        self.gone = False
        self._free, self._slowness, self._clock_hz = free, slowness, clock_hz

    def seconds(self, work: Work, repeats: int) -> list[float]:
        return [self._once(work) for _ in range(repeats)]

    def _once(self, work: Work) -> float:
        start, self.clock.lap = self.clock.now, 0.0
        work()
        seconds = (self.clock.lap or REFERENCE_SECONDS) * self._slowness(start)
        self.clock.now = start + seconds
        return seconds

    def seconds_together(self, works: Sequence[Work], repeats: int) -> list[list[float]]:
        return [self.seconds(work, repeats) for work in works]

    def host_seconds(self, work: Work, repeats: int) -> list[float]:
        return self.seconds(work, repeats)

    def synchronize(self) -> None:
        if self.gone:
            raise RuntimeError("device-side assert triggered\nmore lines of no use")

    def free_bytes(self) -> float:
        return self._free()

    def clock_hz(self) -> float | None:
        return self._clock_hz

    def power_watts(self) -> float | None:
        return None


def latency_and_rate(at: Sizes) -> float:
    """Seconds of a transfer of so many bytes: bends where 20 us of latency equal the time at 10 GB/s, at 200 kB."""
    return 20e-6 + at[0] / 10e9


@dataclass
class MadeUpProbe:
    """A series whose seconds are a formula. By size, what `prepare` or its work raises; `before_prepare` is called first."""

    clock: VirtualClock
    sizes: Sequence[Sizes] = tuple((float(2**power),) for power in range(10, 31, 4))
    formula: Callable[[Sizes], float] = latency_and_rate
    operation: str = "host_copy"
    variant: str = ""
    format: Format | None = None
    axes: tuple[str, ...] = ("size_bytes",)
    needed: Callable[[Sizes], float] = lambda at: 0.0
    prepare_trouble: dict[Sizes, Exception] = field(default_factory=dict)
    work_trouble: dict[Sizes, Exception] = field(default_factory=dict)
    before_prepare: Callable[[Sizes], None] = lambda at: None
    prepared: list[Sizes] = field(default_factory=list)

    def first_sizes(self) -> Sequence[Sizes]:
        return self.sizes

    def needed_bytes(self, at: Sizes) -> float:
        return self.needed(at)

    def between(self, one: Sizes, other: Sizes) -> Sizes | None:
        middle = tuple(float(round(math.sqrt(a * b))) for a, b in zip(one, other, strict=True))
        return None if middle in (one, other) else middle

    def prepare(self, at: Sizes, machine: Machine) -> Work:
        self.before_prepare(at)
        self.prepared.append(at)
        if at in self.prepare_trouble:
            raise self.prepare_trouble[at]

        def work() -> None:
            if at in self.work_trouble:
                raise self.work_trouble[at]
            self.clock.spend(self.formula(at))

        return work


@dataclass
class MadeUpFigure:
    """One number, or an exception."""

    name: str = "launch"
    value: float | Exception = 5e-6
    seconds: float = 0.1
    clock: VirtualClock | None = None
    asked: int = 0

    def measure(self, machine: Machine) -> dict[str, Figure]:
        self.asked += 1
        if self.clock:
            self.clock.spend(self.seconds)
        if isinstance(self.value, Exception):
            raise self.value
        return {f"{self.name}_seconds": Figure(value=self.value, unit="s", meaning="made up")}


class ThreadRanks:
    """Ranks that are threads of this process."""

    class Shared:
        """What the threads have in common. Waiting longer than five seconds is a deadlock."""

        def __init__(self, size: int) -> None:
            self.size = size
            self.gate = threading.Barrier(size, timeout=5.0)
            self.things: list[Any] = [None] * size

    def __init__(self, shared: Shared, rank: int) -> None:
        self._shared = shared
        self.rank = rank
        self.size = shared.size

    def tell(self, thing: Any) -> Any:
        return self._exchange(("tell", thing))[0]

    def gather(self, thing: Any) -> list[Any]:
        return self._exchange(("gather", thing))

    def barrier(self) -> None:
        self._exchange(("barrier", None))

    def _exchange(self, thing: tuple[str, Any]) -> list[Any]:
        """Everyone's things; ranks that do not call the same are a bug."""
        try:
            self._shared.things[self.rank] = thing
            self._shared.gate.wait()
            everyone = list(self._shared.things)
            self._shared.gate.wait()
        except threading.BrokenBarrierError:
            raise RuntimeError("connection closed by peer") from None
        assert len({kind for kind, _ in everyone}) == 1, f"ranks do not call alike: {everyone}"
        return [thing for _, thing in everyone]


def on_threads(size: int, act: Callable[[ThreadRanks], Any]) -> list[Any]:
    """`act` on each of `size` ranks at once; what it returns or raises, by rank."""
    shared = ThreadRanks.Shared(size)
    came_of: list[Any] = [None] * size

    def run(rank: int) -> None:
        try:
            came_of[rank] = act(ThreadRanks(shared, rank))
        except BaseException as failure:
            came_of[rank] = failure
            if isinstance(failure, SystemExit):  # the rank dies: connections to it close
                shared.gate.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "a rank hangs"
    return came_of


def request(folder: Path, budget_seconds: float = 60.0, **others: Any) -> ProfileRequest:
    """A request for `folder/profile.json`."""
    return ProfileRequest(out=folder / "profile.json", budget_seconds=budget_seconds, **others)
