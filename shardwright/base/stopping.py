"""SIGTERM and SIGINT as requests to stop: a rank finishes its step and saves before it ends."""

import os
import signal
import threading
import time
from types import FrameType

STOPPED = 75
"""The exit code of a rank that stopped as it was asked to: EX_TEMPFAIL of sysexits.h, which invites to try again."""

_SAME_REQUEST_SECONDS = 1.0
"""A batch system and a launcher may both pass one request on; what arrives within this time is the same one."""


class StopRequest:
    """Whether this rank was asked to stop. Before the first step it ends at once, as nothing would be lost."""

    def __init__(self) -> None:
        self._asked_at: float | None = None
        self._steps = False

    def listen(self) -> "StopRequest":
        """Take SIGTERM and SIGINT as requests. Only the main thread may set that; in another thread this does nothing."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._hear)
        return self

    def first_step_begins(self) -> None:
        """From here on a request waits for the end of a step."""
        self._steps = True

    @property
    def asked(self) -> bool:
        return self._asked_at is not None

    def ask(self) -> None:
        """Ask as a signal does."""
        self._asked_at = time.monotonic()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        again = self._asked_at is not None and time.monotonic() - self._asked_at > _SAME_REQUEST_SECONDS
        if again or not self._steps:
            os._exit(STOPPED if not self._steps else 128 + number)
        if self._asked_at is None:
            self.ask()
