"""Memory that a CPU's kernels write: kept when it is freed, as in the steps of a long run."""

import contextlib
import ctypes
from collections.abc import Iterator

# glibc's malloc.h; a block above the first is mapped, and unmapped when it is freed; above the second the heap's end goes back
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 2**30
_USUAL_BYTES = 32 * 2**20  # what glibc raises the first to by itself, at the most


@contextlib.contextmanager
def freed_memory_is_kept() -> Iterator[bool]:
    """Meanwhile the C library keeps what is freed for the next allocation; afterwards it gives back what is free, and does as
    in any process that has run for a while.

    Otherwise a fresh process gives large blocks back and takes them again, and every first write to a page of one waits for
    the system. A run's steps do not: whatever they free raises these thresholds within the first step (glibc's mallopt, "dynamic
    mmap threshold"). Gives whether the library could be told; another one than glibc is left as it is.
    """
    told = _tell(_KEPT_BYTES)
    try:
        yield told
    finally:
        if told:
            _tell(_USUAL_BYTES)
            ctypes.CDLL(None).malloc_trim(0)


def _tell(threshold_bytes: int) -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, threshold_bytes)) and bool(mallopt(_M_TRIM_THRESHOLD, threshold_bytes))
