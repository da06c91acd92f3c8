"""Digests of data by its content, so that a run does not go on with other data of the same name and size.

Data of up to `WHOLE_BYTES` is read whole. Of more, each file gives its size and `_BLOCK_BYTES` at evenly spaced places, from its first
byte to its last. A change between these places is not noticed: to read all would take minutes a terabyte. Times of change do not count.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from .errors import SpecError

WHOLE_BYTES = 2**26
_BLOCK_BYTES = 2**12
_MOST_BLOCKS, _FEWEST_BLOCKS = 64, 3
_BLOCKS_IN_ALL = 2**14
"""Of all files together, where the fewest are not more: 64 MiB in all, as much as of data that is read whole."""
_ROWS = 256


def files_digest(files: Sequence[Path], sizes: Sequence[int]) -> str:
    """Return a digest of what the files hold, in their order.

    Raises:
        SpecError: a file cannot be read.
    """
    found = hashlib.blake2b(digest_size=16)
    whole = sum(sizes) <= WHOLE_BYTES
    blocks = min(_MOST_BLOCKS, max(_FEWEST_BLOCKS, _BLOCKS_IN_ALL // max(len(files), 1)))
    for path, size in zip(files, sizes, strict=True):
        found.update(size.to_bytes(8, "little"))
        try:
            with path.open("rb") as file:
                if whole or size <= blocks * _BLOCK_BYTES:
                    found.update(file.read())
                else:
                    _add_sample(found, file, size, blocks)
        except OSError as error:
            raise SpecError(f"{path}: cannot be read ({error.strerror or error})") from None
    return found.hexdigest()


def _add_sample(found: Any, file: BinaryIO, size: int, blocks: int) -> None:
    for number in range(blocks):
        file.seek((size - _BLOCK_BYTES) * number // (blocks - 1))
        found.update(file.read(_BLOCK_BYTES))


def rows_digest(column: Any, rows: int) -> str:
    """Return a digest of the values of a dataset's column at evenly spaced rows, all of them up to `_ROWS`.

    `column` gives the value of a row by its index, as `datasets` with a format of Python does.
    """
    found = hashlib.blake2b(digest_size=16)
    count = min(rows, _ROWS)
    for number in range(count):
        found.update(repr(column(number * (rows - 1) // max(count - 1, 1))).encode())
    return found.hexdigest()
