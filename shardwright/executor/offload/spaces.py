"""The elements off the device: a flat space in the host's memory and one on its drives, and the buckets that updates take them in."""

import errno
import mmap
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from shardwright.base import RunFailedError, SpecError, units

from .division import aligned
from .resources import BufferPool, Ledger, pinned_empty
from .shards import Shard

PAGE_ELEMENTS = 1024
"""Direct reads and writes go by pages of 4096 bytes."""


class Piece(NamedTuple):
    """Elements `start` to `stop` of a shard, which lie from `offset` on in their space."""

    shard: Shard
    start: int
    stop: int
    offset: int

    @property
    def end(self) -> int:
        return self.offset + self.stop - self.start


def lay_out(parts: Sequence[tuple[Shard, int, int]]) -> list[Piece]:
    """Place (shard, start, stop) parts one after the other; each begins at a multiple of `ALIGNED`."""
    pieces, offset = [], 0
    for shard, start, stop in parts:
        if stop > start:
            pieces.append(Piece(shard, start, stop, offset))
            offset += aligned(stop - start)
    return pieces


def page_end(elements: int) -> int:
    """Return so many elements, rounded up to whole pages."""
    return -(-elements // PAGE_ELEMENTS) * PAGE_ELEMENTS


class MemorySpace:
    """Parameters and optimizer state of its pieces in the host's memory, an array of each. `shown`: the parameters that passes read."""

    def __init__(self, pieces: Sequence[Piece], *, ledger: Ledger, device: torch.device) -> None:
        self.pieces = tuple(pieces)
        self.elements = aligned(pieces[-1].end) if pieces else 0
        self._ledger, self._device = ledger, device
        self.parameters = pinned_empty(self.elements, kind="parameters", ledger=ledger, device=device)
        self.shown = self.parameters
        self.states: list[Tensor] = []

    def add_states(self, count: int) -> None:
        """Hold `count` more arrays of zeros."""
        self.states = [
            pinned_empty(self.elements, kind="optimizer_state", ledger=self._ledger, device=self._device)
            for _ in range(count)
        ]

    def show_apart(self) -> None:
        """Let passes read a copy of the parameters as they are now."""
        self.shown = pinned_empty(self.elements, kind="parameters", ledger=self._ledger, device=self._device)
        self.shown.copy_(self.parameters)


class DriveSpace:
    """The same in a file of this rank: array after array, each begun at a page.

    The file is written as a whole when it is made, so that a drive without room is found before the training. Reads and writes go
    around the page cache where the file system lets them. A run writes it anew: what lasts is in the checkpoints.

    Raises:
        SpecError: the folder cannot be written, or has no room.
    """

    def __init__(self, path: Path, pieces: Sequence[Piece], *, arrays: int, ledger: Ledger) -> None:
        self.path, self.pieces = path, tuple(pieces)
        self.elements = page_end(pieces[-1].end) if pieces else 0
        size_bytes = 4 * self.elements * arrays
        ledger.take("parameters", "nvme", 4 * self.elements)
        ledger.take("optimizer_state", "nvme", size_bytes - 4 * self.elements)
        self._size_bytes = size_bytes
        if not size_bytes:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            self._file = _open(path)
            os.posix_fallocate(self._file, 0, size_bytes)
            path.unlink()  # it goes with the process, however that ends
        except OSError as error:
            path.unlink(missing_ok=True)
            raise SpecError(
                f"{path.parent}: has no room for {units.size(size_bytes)} of offloaded state ({error.strerror}); free space, or give another "
                "folder with --offload-folder"
            ) from error

    def fill(self, piece: Piece, pool: BufferPool) -> None:
        """Write the parameters of a piece as its shard has them, through a buffer of the pool."""
        values = piece.shard.values[piece.start : piece.stop]
        low = piece.offset // PAGE_ELEMENTS * PAGE_ELEMENTS
        with pool.one() as buffer:
            while low < piece.end:
                high = min(low + len(buffer), page_end(piece.end))
                self.read(0, low, high, buffer)  # a page may hold a part of another piece
                begin, end = max(low, piece.offset), min(high, piece.end)
                buffer[begin - low : end - low] = values[begin - piece.offset : end - piece.offset]
                self.write(0, low, high, buffer)
                low = high

    def read(self, array: int, low: int, high: int, into: Tensor) -> None:
        """Read elements `low` to `high`, whole pages, of an array into the beginning of a buffer.

        Raises:
            RunFailedError: the drive does not give them.
        """
        self._transfer(os.preadv, array, low, into[: high - low])

    def write(self, array: int, low: int, high: int, values: Tensor) -> None:
        """Write them from the beginning of a buffer; raises as `read` does."""
        self._transfer(os.pwritev, array, low, values[: high - low])

    def _transfer(
        self, call: Callable[[int, list[memoryview], int], int], array: int, low: int, values: Tensor
    ) -> None:
        left = memoryview(values.numpy().data).cast("B")
        place = 4 * (array * self.elements + low)
        try:
            while left:
                done = call(self._file, [left], place)
                if not done:
                    raise OSError(errno.EIO, "the file has become shorter")
                left, place = left[done:], place + done
        except OSError as error:
            raise RunFailedError(
                f"{self.path}: the drive fails ({error.strerror}); the last checkpoint is whole: mend the drive or give another "
                "--offload-folder, and start again"
            ) from error

    def mapped(self, array: int) -> Tensor:
        """Return an array (elements,) as memory of the file, for a checkpoint: the host holds of it what fits."""
        place, size_bytes = 4 * self.elements * array, 4 * self.elements
        return torch.frombuffer(mmap.mmap(self._file, size_bytes, offset=place), dtype=torch.float32)


def _open(path: Path) -> int:
    """Open a new file to read and write around the page cache, or through it where the file system knows no other way."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    try:
        return os.open(path, flags | getattr(os, "O_DIRECT", 0), 0o600)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.open(path, flags, 0o600)
