"""The divisors of a whole number."""

import math


def divisors(number: int) -> list[int]:
    """Every divisor, smallest first; fast for any realistic batch."""
    small = [low for low in range(1, math.isqrt(number) + 1) if number % low == 0]
    return sorted({*small, *(number // low for low in small)})
