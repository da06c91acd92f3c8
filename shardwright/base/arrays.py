"""Array types, named once, and the distinct rows of arrays."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Number = Array | float | int

# Up to this many codes a row are counted in a table. Beyond it a sort takes less memory.
_MOST_CODES_A_ROW = 8
_FEWEST_CODES = 1 << 16


class Distinct(NamedTuple):
    """`first` (U,): one row of each distinct combination. `of_row` (N,): the combination of each row, 0 to U - 1."""

    first: IntArray
    of_row: IntArray


def distinct(columns: Sequence[IntArray]) -> Distinct:
    """Return the distinct rows of `columns`, (N,) each, of whole numbers from 0 up."""
    codes, radix = np.zeros(len(columns[0]), dtype=np.int64), 1
    for column in columns:
        place, count = _places(column)
        if count > 1:
            codes = codes * count + place
            radix *= count
        if radix > _most_codes(len(codes)):
            _, codes = np.unique(codes, return_inverse=True)
            radix = int(codes.max()) + 1
    of_code, count = _places(codes)
    first = np.empty(count, dtype=np.int64)
    first[of_code[::-1]] = np.arange(len(codes) - 1, -1, -1)
    return Distinct(first, of_code)


def _places(numbers: IntArray) -> tuple[IntArray, int]:
    """Return the place of each of `numbers` among their distinct values, and how many of those there are."""
    highest = int(numbers.max())
    if highest == int(numbers.min()):
        return np.zeros_like(numbers), 1
    if highest >= _most_codes(len(numbers)):
        values, place = np.unique(numbers, return_inverse=True)
        return place, len(values)
    present = np.bincount(numbers) > 0
    return (np.cumsum(present) - 1)[numbers], int(present.sum())


def _most_codes(rows: int) -> int:
    return max(_FEWEST_CODES, _MOST_CODES_A_ROW * rows)
