"""The end of a rank with its parent: no rank outlives a launcher that was killed."""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

PARENT = "SHARDWRIGHT_PARENT"
"""The environment variable with the process id of the launcher that started this rank."""

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
_WATCH_SECONDS = 0.5


def end_with_parent(lives: Callable[[], bool] = lambda: True) -> None:
    """Let this process be killed when its parent ends in any way; on Linux by the kernel, also while it is stopped or imports.

    A thread watches, too, for systems without that: it ends the process when the parent is another, or `lives` says no.
    """
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    if os.environ.get(PARENT, str(os.getppid())) != str(os.getppid()):  # it ended before the kernel was asked
        os._exit(1)

    def watch() -> None:
        while os.getppid() == parent and lives():
            time.sleep(_WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="lifeline").start()
