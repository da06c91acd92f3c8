"""SIGTERM and SIGINT at the launcher: the first asks the ranks to stop after their step, the second ends them at once."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any


class Signals:
    """Hears signals within its block; `number` is the first one's. Only the main thread may set that; elsewhere nothing is heard.

    `at_once` is called at the second signal; the block then ends by SystemExit with 128 + its number.
    """

    def __init__(self, progress: Callable[[str], None]) -> None:
        self._progress = progress
        self._previous: dict[int, Any] = {}
        self.number: int | None = None
        self.at_once: Callable[[], None] = lambda: None

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._hear) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.number is None:
            self.number = number
            self._progress(f"{signal.Signals(number).name}: stopping after this step; a second signal ends at once")
            return
        self.at_once()
        raise SystemExit(128 + number)
