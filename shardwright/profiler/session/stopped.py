"""The reasons why measuring ended early."""

from shardwright.base import SpecError
from shardwright.specs import Profile


class StoppedError(SpecError):
    """Measuring ended before all was measured. One line says why and what to do.

    `profile`: all measurements, marked as not complete. `signal_number`: the signal that ended it, if one did.
    """

    def __init__(self, message: str, profile: Profile, *, signal_number: int | None = None) -> None:
        super().__init__(message)
        self.profile = profile
        self.signal_number = signal_number


class DeviceGoneError(Exception):
    """The device fails even at the simplest work. One line gives its message."""


class CrewLostError(Exception):
    """Another rank of the launch is gone. One line gives the message."""
