import resource
import sys

import pytest
import torch

from shardwright.profiler.host_allocator import keep_freed_memory


@pytest.mark.skipif(sys.platform != "linux", reason="counts the pages that Linux hands out")
def test_freed_memory_is_written_again_without_asking_the_system() -> None:
    if not keep_freed_memory():
        pytest.skip("the C library is not glibc")
    elements = 16 * 2**20  # 64 MiB, twice what glibc maps at the most by itself
    for _ in range(8):  # until a freed block is there that an aligned one fits in
        torch.ones(elements)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        torch.ones(elements)
    pages = elements * 4 // resource.getpagesize()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < pages / 10
