"""What rank 0 tells the others to do with it."""

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
    """Time what was prepared."""

    slot: int
    repeats: int


@dataclass(frozen=True)
class Release:
    """The operands of everything prepared."""


@dataclass(frozen=True)
class FreeBytes:
    """How much memory every rank has."""


@dataclass(frozen=True)
class Reference:
    """Time the reference work."""

    repeats: int


@dataclass(frozen=True)
class MeasureFigures:
    """Let a figure probe measure."""

    probe: int


@dataclass(frozen=True)
class CheckLayers:
    """Measure layers beside what the profile foretells."""

    profile: Profile


@dataclass(frozen=True)
class End:
    """Nothing more is measured."""

    profile: Profile | None


Order = Prepare | Repeat | Release | FreeBytes | Reference | MeasureFigures | CheckLayers
