"""Whole numbers: divisors, lists of them in words, and binary units."""

import math
from collections.abc import Iterable

GIB = 2**30


def divisors(number: int) -> list[int]:
    """Every divisor, smallest first; quick for any batch that a person could write."""
    small = [low for low in range(1, math.isqrt(number) + 1) if number % low == 0]
    return sorted({*small, *(number // low for low in small)})


def listed(values: Iterable[int]) -> str:
    """`1, 2, 4`."""
    return ", ".join(map(str, values))
