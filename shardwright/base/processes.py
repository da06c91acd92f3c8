"""This process and its machine: the cores it may use, the processor's name, freed memory, and SIGTERM handling."""

import contextlib
import ctypes
import os
import platform
import signal
import threading
from collections.abc import Iterator
from math import ceil
from pathlib import Path
from types import FrameType

CONTROL_GROUP = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores that this process may use: its affinity, and the CPU quota of its control group."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (CONTROL_GROUP / "cpu.max").read_text().split()
        return min(cores, max(1, ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        return cores


def threads_per_rank(local_ranks: int) -> int:
    """Threads for each rank on this machine: its share of the cores that this process may use, at least one."""
    return max(1, usable_cores() // local_ranks)


def cpu_model() -> str:
    """The processor's name, as the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine() or "CPU"


def return_freed_memory() -> None:
    """Give the system back what was freed, so that the resident memory is what is in use (glibc's malloc_trim(3)).

    C libraries without it are left alone.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind like Ctrl-C. Only the main thread may set that; in another thread this does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
