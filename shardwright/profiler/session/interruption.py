"""Ctrl-C and SIGTERM end measuring with the results so far, and never in the middle of joint work of several ranks."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class InterruptedBySignalError(KeyboardInterrupt):
    """A signal requested the end. No `except Exception` on the way may catch it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Interruption:
    """Turns SIGINT and SIGTERM into `InterruptedBySignalError`, within `listening`.

    The error is raised at once, or at the end of a `together` block. A second signal is raised at once in any case. An
    `obedient` rank leaves the first signal to the rank that it obeys.
    """

    def __init__(self, *, obedient: bool = False) -> None:
        self._obedient = obedient
        self._waiting: int | None = None
        self._together = False
        self.forced = False
        """Whether a second signal ended the current work."""

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Set the handlers within the block, and restore them afterwards. Only a process's main thread can set them."""
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
        """Protect work that must not be interrupted, because other ranks take part in it."""
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
