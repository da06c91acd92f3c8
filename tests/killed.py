"""A process that is killed in the middle of something, as SIGKILL, the kernel or a power cut do it."""

import os
import signal
from collections.abc import Callable


def until_killed(work: Callable[[Callable[[], None]], object]) -> bool:
    """Call `work` in a fork of this process with a function that kills it there; return whether it was."""
    child = os.fork()
    if child == 0:
        try:
            work(lambda: os.kill(os.getpid(), signal.SIGKILL))
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
