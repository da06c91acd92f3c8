"""Checks whether the machine keeps its speed, by a reference work timed between rounds."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

_REPEATS = 3
_LOOKS_AT_EITHER_END = 3
_LEAST_LOOKS = 4


class _Expected(NamedTuple):
    """What is normal for a kind of machine. `cause`: why it may be slower at the end than at the beginning."""

    slowdown: float
    cause: str
    is_noisy: bool


_EXPECTED = {
    "gpu": _Expected(slowdown=0.05, cause="it may be throttling", is_noisy=False),
    "cpu": _Expected(slowdown=0.15, cause="other programs, or a lower clock", is_noisy=True),
}


@dataclass(frozen=True)
class Look:
    """One timing of the reference work. `clock_hz`: that of the device right
    after it, where it is requested and reported."""

    seconds: float
    clock_hz: float | None


@dataclass
class Watch:
    """Times the reference work and reports changes. `kind`: a GPU is expected to be steadier than a CPU."""

    kind: Literal["gpu", "cpu"]
    reference_seconds: Callable[[int], float]
    clock_hz: Callable[[], float | None]
    looks: list[Look] = field(default_factory=list)
    disturbed_rounds: int = 0

    def look(self) -> bool:
        """Time once. Return whether the machine is slower than usual by more than is normal for its kind."""
        seconds = self.reference_seconds(_REPEATS)
        slow = len(self.looks) >= _LEAST_LOOKS and seconds > self._usual_seconds * (1 + self._expected.slowdown)
        at_an_end = len(self.looks) < _LOOKS_AT_EITHER_END
        self.looks.append(Look(seconds, self.clock_hz() if slow or at_an_end else None))
        return slow

    @property
    def noise(self) -> float:
        """Half the spread of the middle half of all timings, as a share of
        their median. Repeats cannot average it out."""
        if len(self.looks) < _LEAST_LOOKS:
            return 0.0
        low, middle, high = statistics.quantiles([look.seconds for look in self.looks], n=4)
        return (high - low) / 2 / middle if middle > 0 else 0.0

    def remarks(self) -> list[str]:
        """Return remarks for the reader: that the machine became slower, and that rounds were disturbed."""
        said: list[str] = []
        if len(self.looks) >= 2 * _LOOKS_AT_EITHER_END:
            begin, end = self.looks[:_LOOKS_AT_EITHER_END], self.looks[-_LOOKS_AT_EITHER_END:]
            slower = _median(begin, end)
            if slower > self._expected.slowdown:
                cause = f"{self._expected.cause}{_clocks(begin, end)}"
                said.append(f"the machine was {slower:.0%} slower at the end than at the beginning: {cause}")
        if self.disturbed_rounds:
            said.append(
                f"{self.disturbed_rounds} rounds were measured again because the reference matmul was more than "
                f"{self._expected.slowdown:.0%} slower than usual meanwhile"
            )
        if self._expected.is_noisy and self.noise:
            said.append(f"measured on a CPU, which is noisy: the reference matmul varied by ±{self.noise:.1%}")
        return said

    @property
    def _expected(self) -> _Expected:
        return _EXPECTED[self.kind]

    @property
    def _usual_seconds(self) -> float:
        return statistics.median(look.seconds for look in self.looks)


def _median(begin: list[Look], end: list[Look]) -> float:
    """Return how much slower the end is, as a share."""
    before, after = (statistics.median(look.seconds for look in looks) for looks in (begin, end))
    return after / before - 1


def _clocks(begin: list[Look], end: list[Look]) -> str:
    """Return the clocks at both ends, where the device reported both."""
    first = [look.clock_hz for look in begin if look.clock_hz]
    last = [look.clock_hz for look in end if look.clock_hz]
    if not first or not last:
        return ""
    return f" (clock {statistics.median(first) / 1e6:.0f} MHz, then {statistics.median(last) / 1e6:.0f} MHz)"
