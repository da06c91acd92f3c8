"""Host memory that a device copies to and from without help of the CPU, and a pool of such buffers."""

import contextlib
import mmap
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from shardwright.base import RunFailedError, units

from .ledger import Kind, Ledger


def pinned_empty(elements: int, *, kind: Kind, ledger: Ledger, device: torch.device) -> Tensor:
    """Return (elements,) zeros in fp32 on the host, page-locked where `device` is a GPU, counted in the ledger.

    Raises:
        RunFailedError: it would pass the plan's bytes, or the host does not have it.
    """
    ledger.take(kind, "host", 4 * elements)
    return pinned(4 * elements, kind=kind, device=device).view(torch.float32)


def pinned(size_bytes: int, *, kind: Kind, device: torch.device) -> Tensor:
    """Return (size_bytes,) bytes of zeros on the host, page-locked where `device` is a GPU.

    The memory is mapped and then registered, because torch's own page-locked allocator rounds sizes up to powers of two (MemAscend,
    arXiv 2505.23254). It begins at a page, as direct reads and writes need.

    Raises:
        RunFailedError: the host does not have it.
    """
    if not size_bytes:
        return torch.empty(0, dtype=torch.uint8)
    try:
        tensor = torch.frombuffer(mmap.mmap(-1, size_bytes), dtype=torch.uint8)
    except OSError as error:
        raise RunFailedError(
            f"the host does not have {units.size(size_bytes)} for {kind} ({error.strerror}); plan with less offload"
        ) from error
    if device.type == "cuda":
        failed = int(_runtime().cudaHostRegister(tensor.data_ptr(), size_bytes, 0))
        if failed:
            raise RunFailedError(
                f"the host refuses to page-lock {units.size(size_bytes)} for {kind} (CUDA error {failed}); raise its limit of locked "
                "memory, or plan with less offload"
            )
    return tensor


def unpin(tensor: Tensor, *, device: torch.device) -> None:
    """Unlock memory that `pinned` returned, before it is freed."""
    if device.type == "cuda":
        _runtime().cudaHostUnregister(tensor.data_ptr())


def _runtime() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]  # torch's


class BufferPool:
    """`count` buffers of `elements` fp32 values each on the host. Who finds none free waits."""

    def __init__(self, count: int, elements: int, *, ledger: Ledger, device: torch.device) -> None:
        whole = pinned_empty(count * elements, kind="buffers", ledger=ledger, device=device)
        self._free = list(torch.split(whole, elements)) if elements else []
        self._changed = threading.Condition()

    def take(self, count: int) -> list[Tensor]:
        """Return `count` buffers at once, as soon as so many are free."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._free) >= count)
            taken, self._free = self._free[:count], self._free[count:]
            return taken

    @contextlib.contextmanager
    def one(self) -> Iterator[Tensor]:
        """Lend one buffer for the block."""
        (buffer,) = self.take(1)
        try:
            yield buffer
        finally:
            self.give_back([buffer])

    def give_back(self, buffers: Sequence[Tensor]) -> None:
        """Let others use the buffers."""
        with self._changed:
            self._free += buffers
            self._changed.notify_all()
