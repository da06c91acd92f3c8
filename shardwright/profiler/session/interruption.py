"""Ctrl-C and SIGTERM end measuring with what there is, and never in the middle of what several ranks do together."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class InterruptedBySignalError(KeyboardInterrupt):
    """A signal asked to end. No `except Exception` on the way may swallow it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Interruption:
    """Turns SIGINT and SIGTERM into `InterruptedBySignalError`, within `listening`.

    Raised at once where it is, or at the end of `together`; a second signal is raised at once in any case. A rank that is
    `obedient` leaves the first to the rank that it obeys.
    """

    def __init__(self, *, obedient: bool = False) -> None:
        self._obedient = obedient
        self._waiting: int | None = None
        self._together = False
        self.forced = False
        """Whether a second signal ended what was under way."""

    @contextmanager
    def listening(self) -> Iterator[None]:
        """The handlers are set within, and put back afterwards; only a process's main thread can set them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before: dict[int, Any] = {number: signal.signal(number, self._heard) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What must not be left in the middle, because other ranks are in it."""
        self._together = True
        try:
            yield
        finally:
            self._together = False
        if self._waiting is not None and not self._obedient:
            raise InterruptedBySignalError(self._waiting)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        first = self._waiting is None
        self._waiting = number
        if first and (self._together or self._obedient):
            return
        self.forced = not first
        raise InterruptedBySignalError(number)
