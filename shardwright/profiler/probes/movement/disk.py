"""Reading and writing a disk, directly and through the page cache, in a folder that the user names."""

import errno
import math
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

from shardwright.profiler.timing import Machine, Sizes, UnavailableError, Work
from shardwright.specs import Format

DiskOperation = Literal["disk_read", "disk_write"]
DiskMode = Literal["direct", "buffered"]

# The middle first, then the ends, then sizes between them.
_SIZES_BYTES = (2**24, 2**20, 2**28, 2**16, 2**22, 2**26)
_ALIGNED_BYTES = 2**16  # a multiple of every block and page size that direct access may require
_REQUEST_BYTES = 2**24
_SPARE_SHARE = 0.05


def disk_probes(folder: Path) -> list["DiskProbe"]:
    """Return both directions, direct and buffered, on one scratch file in `folder`."""
    file = ScratchFile(folder)
    operations: tuple[DiskOperation, ...] = ("disk_read", "disk_write")
    modes: tuple[DiskMode, ...] = ("direct", "buffered")
    return [DiskProbe(operation, mode, file) for mode in modes for operation in operations]


class ScratchFile:
    """A file in `folder` without a name, so that nothing is left of it after any end of this process.

    It is made at its first use and grows to the largest requested size.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._size_bytes = 0
        self._file: IO[bytes] | None = None
        self._direct: int | None = None

    def descriptor(self, mode: DiskMode, size_bytes: int) -> int:
        """Return an open file of at least `size_bytes`; `mode` direct bypasses the page cache.

        Raises:
            UnavailableError: no such folder, no permission, no space, or a file system without direct access.
        """
        with _explained(self.folder):
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self.folder, buffering=0)  # noqa: SIM115  # open as long as the probes are
            buffered = self._file.fileno()
            if size_bytes > self._size_bytes:
                self._grow(buffered, size_bytes)
        return buffered if mode == "buffered" else self._opened_direct(buffered)

    def _grow(self, descriptor: int, size_bytes: int) -> None:
        free_bytes = shutil.disk_usage(self.folder).free
        if size_bytes - self._size_bytes > (1 - _SPARE_SHARE) * free_bytes:
            raise UnavailableError(
                f"{self.folder}: has {free_bytes / 2**20:.0f} MiB free, and the scratch file takes {size_bytes / 2**20:.0f} MiB"
            )
        block = os.urandom(_ALIGNED_BYTES)  # random, because a disk could compress other data and store it faster
        written = self._size_bytes
        try:
            while written < size_bytes:
                written += os.pwrite(descriptor, block, written)
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, self._size_bytes)  # free the space of a full disk
            raise
        self._size_bytes = written

    def _opened_direct(self, descriptor: int) -> int:
        if self._direct is None:
            if not hasattr(os, "O_DIRECT"):
                raise UnavailableError("this system has no direct access to files")
            try:
                self._direct = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR | os.O_DIRECT)
            except OSError as error:
                raise UnavailableError(
                    f"{self.folder}: its file system refuses direct access ({error.strerror})"
                ) from error
        return self._direct

    def __del__(self) -> None:
        if self._direct is not None:
            os.close(self._direct)


class DiskProbe:
    """One direction (`Probe`), a whole file of `size_bytes` at a time, in requests of up to 16 MiB.

    A buffered write ends when the disk has the data. A buffered read starts with its pages dropped from the cache.
    """

    axes = ("size_bytes",)
    format: Format | None = None

    def __init__(self, operation: DiskOperation, mode: DiskMode, file: ScratchFile) -> None:
        self.operation: str = operation
        self.variant: str = mode
        self._writes, self._mode, self._file = operation == "disk_write", mode, file

    def first_sizes(self) -> Sequence[Sizes]:
        return [(float(size_bytes),) for size_bytes in _SIZES_BYTES]

    def needed_bytes(self, at: Sizes) -> float:
        """Bytes of memory: the buffer of one request."""
        return min(at[0], _REQUEST_BYTES)

    def between(self, one: Sizes, other: Sizes) -> Sizes | None:
        size_bytes = float(_ALIGNED_BYTES * max(1, round(math.sqrt(one[0] * other[0]) / _ALIGNED_BYTES)))
        return None if size_bytes in (one[0], other[0]) else (size_bytes,)

    def prepare(self, at: Sizes, machine: Machine) -> Work:
        """Open the scratch file and return the work.

        Raises:
            UnavailableError: see `ScratchFile.descriptor`. The work itself raises it when the disk fails later.
        """
        size_bytes = round(at[0])
        descriptor = self._file.descriptor(self._mode, size_bytes)
        buffer = mmap.mmap(-1, min(size_bytes, _REQUEST_BYTES))  # starts at a page, as direct access requires
        buffer.write(os.urandom(len(buffer)))
        transfer = self._write if self._writes else self._read

        def work() -> None:
            with _explained(self._file.folder):
                transfer(descriptor, memoryview(buffer), size_bytes)

        return work

    def _write(self, descriptor: int, buffer: memoryview, size_bytes: int) -> None:
        _in_requests(os.pwritev, descriptor, buffer, size_bytes)
        if self._mode == "buffered":
            os.fsync(descriptor)

    def _read(self, descriptor: int, buffer: memoryview, size_bytes: int) -> None:
        if self._mode == "buffered":
            os.posix_fadvise(descriptor, 0, size_bytes, os.POSIX_FADV_DONTNEED)
        _in_requests(os.preadv, descriptor, buffer, size_bytes)


def _in_requests(
    transfer: Callable[[int, Sequence[memoryview], int], int], descriptor: int, buffer: memoryview, size_bytes: int
) -> None:
    done = 0
    while done < size_bytes:
        moved = transfer(descriptor, [buffer[: size_bytes - done]], done)
        if moved == 0:
            raise OSError(errno.EIO, f"the scratch file ends after {done} bytes")
        done += moved


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turn the error of a disk into one line that names the folder."""
    try:
        yield
    except OSError as error:
        raise UnavailableError(f"{folder}: {_WHY.get(error.errno or 0, error.strerror or str(error))}") from error


_WHY = {
    errno.ENOENT: "no such folder, or it takes no files",
    errno.ENOTDIR: "is not a folder",
    errno.EACCES: "may not be written to",
    errno.EPERM: "may not be written to",
    errno.EROFS: "is on a file system that is read-only",
    errno.ENOSPC: "its disk is full",
    errno.EDQUOT: "its quota of disk space is used up",
}
