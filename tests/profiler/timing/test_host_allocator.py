import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch

from shardwright.profiler.timing.host_allocator import freed_memory_is_kept


@pytest.mark.skipif(sys.platform != "linux", reason="counts the pages that Linux hands out")
def test_freed_memory_is_written_again_without_asking_the_system() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:  # other tests leave holes in the heap
        pages = fresh.submit(_pages_taken_inside_and_after).result()
    if pages is None:
        pytest.skip("the C library is not glibc")
    inside, after = pages
    assert inside < _PAGES / 10
    assert after > _PAGES  # and as ever afterwards


_ELEMENTS = 16 * 2**20  # 64 MiB, twice what glibc maps at the most by itself
_PAGES = _ELEMENTS * 4 // resource.getpagesize()


def _pages_taken_inside_and_after() -> tuple[int, int] | None:
    with freed_memory_is_kept() as told:
        for _ in range(8):  # until a freed block is there that an aligned one fits in
            torch.ones(_ELEMENTS)
        inside = _pages_taken()
    return (inside, _pages_taken()) if told else None


def _pages_taken() -> int:
    """From the system, by three tensors one after the other."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        torch.ones(_ELEMENTS)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
