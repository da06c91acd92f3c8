"""Whole numbers: as a person writes them, divisors, lists of them in words, and binary units."""

import math
import re
from collections.abc import Iterable

from .errors import SpecError

GIB = 2**30
_PREFIXES = {"": 1, "k": 1024, "m": 1024**2}
_MOST_DIGITS = 60  # of no number that anybody means; Python refuses to read thousands of them
_COUNT = re.compile(r"([+-]?[0-9]+(?:_[0-9]+)*(?:\.[0-9]+)?)([km]?)", re.IGNORECASE)


def read_count(text: str) -> int:
    """A count as a person writes it: `8192`, `8k` (1024 each), `1M` (1024 x 1024), `1_000_000`; `1.5k` is whole, too.

    Raises:
        SpecError: it is no whole number so written.
    """
    found = _COUNT.fullmatch(text.strip())
    if found and len(found[1]) <= _MOST_DIGITS:
        digits, _, fraction = found[1].replace("_", "").partition(".")
        scale = _PREFIXES[found[2].lower()]
        # in whole numbers: a float would round a long one
        value, rest = divmod(int(digits + fraction) * scale, int(10 ** len(fraction)))
        if rest == 0 and (found[2] or not fraction):
            return value
    raise SpecError(
        f"'{text[:_MOST_DIGITS]}' is not a whole number; write it as 8192, 8k (k is 1024), 1M (1024 x 1024) or 1_000_000"
    )


def divisors(number: int) -> list[int]:
    """Every divisor, smallest first; fast for any realistic batch."""
    small = [low for low in range(1, math.isqrt(number) + 1) if number % low == 0]
    return sorted({*small, *(number // low for low in small)})


def listed(values: Iterable[object]) -> str:
    """`1, 2, 4`."""
    return ", ".join(map(str, values))
