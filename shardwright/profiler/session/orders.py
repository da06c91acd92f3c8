"""The orders that rank 0 gives to the others."""

from dataclasses import dataclass

from shardwright.profiler.timing import Sizes
from shardwright.specs import Profile


@dataclass(frozen=True)
class Prepare:
    """Make the operands of a size, and run it."""

    slot: int
    probe: int
    at: Sizes


@dataclass(frozen=True)
class Repeat:
    """Time prepared work."""

    slot: int
    repeats: int


@dataclass(frozen=True)
class Release:
    """Release the operands of all prepared work."""


@dataclass(frozen=True)
class FreeBytes:
    """Report the free memory of every rank."""


@dataclass(frozen=True)
class Reference:
    """Time the reference work."""

    repeats: int


@dataclass(frozen=True)
class MeasureFigures:
    """Run a figure probe."""

    probe: int


@dataclass(frozen=True)
class CheckLayers:
    """Measure layers and compare them with the prediction of the profile."""

    profile: Profile


@dataclass(frozen=True)
class End:
    """End measuring."""

    profile: Profile | None


Order = Prepare | Repeat | Release | FreeBytes | Reference | MeasureFigures | CheckLayers
