"""The two seams of the profiler: what is measured (`Probe`), and on what it is timed (`Machine`)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from shardwright.specs import Figure, Format

Sizes = tuple[float, ...]
Work = Callable[[], object]


class JointWork(ABC):
    """Work that several ranks do together, such as a collective: each waits for the last one to come."""

    @abstractmethod
    def __call__(self) -> object: ...


class UnavailableError(Exception):
    """This machine or this torch cannot run a piece of work; one line says why. The rest is measured all the same."""


class Machine(Protocol):
    """The one timing seam: everything above it is the same on a GPU, on a CPU and in tests."""

    @property
    def device(self) -> torch.device:
        """Where operands are made."""
        ...

    def seconds(self, work: Work, repeats: int) -> list[float]:
        """Seconds of each of `repeats` repeats of `work`: device time on a GPU, elapsed time on a CPU."""
        ...

    def seconds_together(self, works: Sequence[Work], repeats: int) -> list[list[float]]:
        """The same of several works that run at once, each over and over until all have repeated `repeats` times."""
        ...

    def host_seconds(self, work: Work, repeats: int) -> list[float]:
        """Seconds that the host needs to start each repeat, not waiting for the device."""
        ...

    def synchronize(self) -> None:
        """Wait until the device is idle."""
        ...

    def free_bytes(self) -> float:
        """Device memory that can be taken now without failing."""
        ...

    def clock_hz(self) -> float | None:
        """The device's clock right now, None where it does not say."""
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
        """Sizes to measure first, the most telling ones in front; more are placed between them while time is left."""
        ...

    def needed_bytes(self, at: Sizes) -> float:
        """Device memory that `prepare` and the work take, to be asked for before it is taken."""
        ...

    def between(self, one: Sizes, other: Sizes) -> Sizes | None:
        """A size between two, valid for this operation; None where there is none."""
        ...

    def prepare(self, at: Sizes, machine: Machine) -> Work:
        """Make the operands and return what is timed.

        Raises:
            UnavailableError: this machine or torch cannot do it.
        """
        ...


class FigureProbe(Protocol):
    """Single numbers that are no curve: launch time, memory overheads, slowdowns of what runs at once."""

    @property
    def name(self) -> str: ...

    def measure(self, machine: Machine) -> dict[str, Figure]:
        """The figures by name.

        Raises:
            UnavailableError: this machine or torch cannot do it.
        """
        ...
