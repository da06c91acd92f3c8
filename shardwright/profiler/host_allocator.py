"""Memory that a CPU's kernels write: kept when it is freed, as in the steps of a long run."""

import ctypes
from functools import cache

# glibc's malloc.h; a block above the first is mapped, and unmapped when it is freed; above the second the heap's end goes back
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 2**30


@cache
def keep_freed_memory() -> bool:
    """Have the C library keep what is freed for the next allocation, for the rest of this process.

    Otherwise a fresh process gives large blocks back and takes them again, and every first write to a page of one waits for
    the system. A run's steps do not: whatever they free raises these thresholds within the first step (glibc's mallopt, "dynamic
    mmap threshold"). Returns whether the library could be told; another one than glibc is left as it is.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)) and bool(mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES))
