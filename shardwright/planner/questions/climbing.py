"""The largest or the least of a row of values for which something holds, with few tries.

What fits need not be monotone: a value may fail only because nothing divides. The rules below say which values are tried,
and therefore what is known about the answer. Values are numbered 1 to `count`.
"""

from collections.abc import Callable, Sequence
from enum import Enum

MOST_TRIED_WHOLE = 24
_MISSES = 2


class Verdict(Enum):
    """What a try showed: something fits, plans divide but none fits, or no plan divides."""

    FITS = "fits"
    TOO_LARGE = "too large"
    NOTHING_DIVIDES = "nothing divides"


def largest(count: int, verdict: Callable[[int], Verdict], coarse: Sequence[int] = ()) -> int:
    """Return a number that fits and whose next one does not, 0 if none was found.

    Of at most 24 numbers all are tried, and the answer is the largest that fits. Of more, the step from 0 doubles (1, 2, 4, ...)
    until two in turn do not fit; one may fail where a larger one fits, because longer sequences allow more context parallelism.
    Numbers with which nothing divides are passed over until one fits. Then the gap above the last that fits is halved. The
    failures of the halvings are the next multiples above the answer of 1, 2, 4, ..., so none that divides better was left out up
    to twice the answer. `coarse` are units that are climbed first in the same way, such as the odd factor of a number of devices;
    the multiples then count from where that climb ended.
    """
    if count <= MOST_TRIED_WHOLE:
        return max((number for number in range(1, count + 1) if verdict(number) is Verdict.FITS), default=0)
    best = 0
    for unit in (*coarse, 1):
        best = _climb(best, unit, count, verdict)
    return best


def _climb(start: int, unit: int, count: int, verdict: Callable[[int], Verdict]) -> int:
    low, stride, misses = start, unit, 0
    while start + stride <= count and misses < _MISSES:
        tried = verdict(start + stride)
        if tried is Verdict.FITS:
            low, misses = start + stride, 0
        elif tried is Verdict.TOO_LARGE or low > 0:
            misses += 1
        stride *= 2
    gap = low - start  # a power of two times the unit, and start + 2 gap does not fit
    while gap > unit:
        gap //= 2
        if low + gap <= count and verdict(low + gap) is Verdict.FITS:
            low += gap
    return low


def least(count: int, holds: Callable[[int], bool]) -> int | None:
    """Return a number that holds while the one before it does not; None if no tried one holds.

    Of at most 24 numbers, the first that holds is found by trying them in turn. Of more, 1, 2, 4, ... and at last `count` are tried
    until one holds. Then the gap to the one before is halved.
    """
    if count <= MOST_TRIED_WHOLE:
        return next((number for number in range(1, count + 1) if holds(number)), None)
    below, number = 0, 1
    while not holds(number):
        if number == count:
            return None
        below, number = number, min(2 * number, count)
    while number - below > 1:
        middle = (below + number) // 2
        if holds(middle):
            number = middle
        else:
            below = middle
    return number
