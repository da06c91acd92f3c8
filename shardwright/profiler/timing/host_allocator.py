"""Memory that the kernels of a CPU write: kept after it is freed, as in the steps of a long run."""

import contextlib
import ctypes
from collections.abc import Iterator

from shardwright.base import return_freed_memory

# From glibc's malloc.h. A block above the first is mapped, and unmapped when it is freed. Above the second the end of
# the heap is returned to the system.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 2**30
_USUAL_BYTES = 32 * 2**20  # glibc raises the first to at most this


@contextlib.contextmanager
def freed_memory_is_kept() -> Iterator[bool]:
    """Make the C library keep freed memory for the next allocation; restore the usual behaviour afterwards.

    A fresh process would return large blocks and take them again, and every first write to one of their pages would
    wait for the system. The steps of a run don't: freed blocks raise these thresholds within the first step (glibc's
    mallopt, "dynamic mmap threshold"). Afterwards free memory is returned, and thresholds are those of a process that
    has run for a while. Yields whether the library could be set; libraries other than glibc are left unchanged.
    """
    told = _tell(_KEPT_BYTES)
    try:
        yield told
    finally:
        if told:
            _tell(_USUAL_BYTES)
            return_freed_memory()


def _tell(threshold_bytes: int) -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, threshold_bytes)) and bool(mallopt(_M_TRIM_THRESHOLD, threshold_bytes))
