"""A `Machine` that says it is a GPU and takes its times from the test."""

from collections.abc import Callable, Mapping, Sequence

import torch

from shardwright.profiler.timing.probe import Work


class GpuStandIn:
    """Works are told apart by name: those of `work`. `together`: seconds of each when all run at once."""

    def __init__(
        self,
        seconds: Mapping[str, float],
        together: Mapping[str, Sequence[float]] | None = None,
        free: Sequence[float] = (),
    ) -> None:
        self._seconds, self._together = dict(seconds), dict(together or {})
        self._free = list(free)
        self._names: dict[Work, str] = {}

    def work(self, name: str, done: list[str]) -> Callable[[], object]:
        """Work that writes its name into `done`."""

        def run() -> None:
            done.append(name)

        self._names[run] = name
        return run

    @property
    def device(self) -> torch.device:
        return torch.device("cuda", 0)

    def seconds(self, work: Work, repeats: int) -> list[float]:
        return [self._seconds[self._names[work]]] * repeats

    def seconds_together(self, works: Sequence[Work], repeats: int) -> list[list[float]]:
        return [list(self._together[self._names[work]]) for work in works]

    def host_seconds(self, work: Work, repeats: int) -> list[float]:
        return self.seconds(work, repeats)

    def synchronize(self) -> None:
        return None

    def free_bytes(self) -> float:
        """What it was made with, one after another."""
        return self._free.pop(0)

    def clock_hz(self) -> float | None:
        return None

    def power_watts(self) -> float | None:
        return None
