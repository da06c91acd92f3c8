"""A machine whose clock is a list: runs what it is given and says each repeat took what the test wants."""

from collections.abc import Callable, Sequence

import torch

from shardwright.profiler.timing.probe import Work


class SteadyMachine:
    """`seconds_of` says what one repeat takes, after it ran; a second each where nothing is given."""

    def __init__(
        self, *, free_bytes: float = 1e12, seconds_of: Callable[[Work], float] | None = None, host_seconds: float = 1.0
    ) -> None:
        self._free_bytes = free_bytes
        self._seconds_of = seconds_of
        self._host_seconds = host_seconds

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def seconds(self, work: Work, repeats: int) -> list[float]:
        work()
        return [1.0 if self._seconds_of is None else self._seconds_of(work)] * repeats

    def seconds_together(self, works: Sequence[Work], repeats: int) -> list[list[float]]:
        return [self.seconds(work, repeats) for work in works]

    def host_seconds(self, work: Work, repeats: int) -> list[float]:
        work()
        return [self._host_seconds] * repeats

    def synchronize(self) -> None:
        pass

    def free_bytes(self) -> float:
        return self._free_bytes

    def clock_hz(self) -> float | None:
        return None

    def power_watts(self) -> float | None:
        return None
