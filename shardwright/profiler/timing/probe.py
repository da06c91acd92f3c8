"""The two interfaces of the profiler: what is measured (`Probe`), and the device that times it (`Machine`)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from shardwright.specs import Figure, Format

Sizes = tuple[float, ...]
Work = Callable[[], object]


class JointWork(ABC):
    """Work that several ranks do together, such as a collective: each waits for the last one to arrive."""

    @abstractmethod
    def __call__(self) -> object: ...


class UnavailableError(Exception):
    """This machine or this torch cannot run a piece of work. One line says why; the rest is measured all the same."""


class Machine(Protocol):
    """The interface for timing. Everything above it is the same on a GPU, on a CPU and in tests."""

    @property
    def device(self) -> torch.device:
        """The device on which operands are made."""
        ...

    def seconds(self, work: Work, repeats: int) -> list[float]:
        """Seconds of each of `repeats` repeats of `work`: device time on a GPU, elapsed time on a CPU."""
        ...

    def seconds_together(self, works: Sequence[Work], repeats: int) -> list[list[float]]:
        """Return the seconds of several works that run at once, each until all have repeated `repeats` times."""
        ...

    def host_seconds(self, work: Work, repeats: int) -> list[float]:
        """Return the seconds that the host needs to start each repeat, without waiting for the device."""
        ...

    def synchronize(self) -> None:
        """Wait until the device is idle."""
        ...

    def free_bytes(self) -> float:
        """Return the device memory that can be allocated now without failing."""
        ...

    def clock_hz(self) -> float | None:
        """Return the device's current clock, or None where it does not report one."""
        ...

    def power_watts(self) -> float | None:
        """Return the power that the device draws now, or None where it does not report it."""
        ...


class Probe(Protocol):
    """One series of a profile: an operation in one format and variant, at sizes along `axes`."""

    @property
    def operation(self) -> str: ...

    @property
    def variant(self) -> str: ...

    @property
    def format(self) -> Format | None: ...

    @property
    def axes(self) -> tuple[str, ...]: ...

    def first_sizes(self) -> Sequence[Sizes]:
        """Return the sizes to measure first, most informative first. More
        are placed between them while time is left."""
        ...

    def needed_bytes(self, at: Sizes) -> float:
        """Return the device memory that `prepare` and the work take. It is checked before it is allocated."""
        ...

    def between(self, one: Sizes, other: Sizes) -> Sizes | None:
        """Return a size between two, valid for this operation, or None where there is none."""
        ...

    def prepare(self, at: Sizes, machine: Machine) -> Work:
        """Make the operands and return the work to time.

        Raises:
            UnavailableError: this machine or torch cannot do it.
        """
        ...


class FigureProbe(Protocol):
    """Single numbers instead of curves: launch time, memory overheads, slowdowns of simultaneous work."""

    @property
    def name(self) -> str: ...

    def measure(self, machine: Machine) -> dict[str, Figure]:
        """Return the figures by name.

        Raises:
            UnavailableError: this machine or torch cannot do it.
        """
        ...
