"""From raw seconds to a point: the median of the repeats, its uncertainty, and when it is certain enough."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scipy import stats

from shardwright.specs import Point

from .probe import Sizes

CONFIDENCE = 0.95
_OUTLYING_SCORE = 3.5
_MAD_OF_NORMAL = 0.6745


@dataclass(frozen=True)
class Precision:
    """The condition for a good point: its interval is within `tolerance` of the median either way.

    There are at least `least_repeats` repeats (`least_slow_repeats` for work of `slow_seconds` or more), and at most
    `most_repeats`.
    """

    tolerance: float = 0.03
    least_repeats: int = 6
    most_repeats: int = 60
    least_slow_repeats: int = 3
    slow_seconds: float = 1.0

    def least(self, seconds: float) -> int:
        """Return the fewest repeats of work that takes `seconds`."""
        return self.least_slow_repeats if seconds >= self.slow_seconds else self.least_repeats


class Samples:
    """The seconds of every repeat of one piece of work. None is dropped: a median
    tolerates outliers, and they are counted."""

    def __init__(self, seconds: Iterable[float] = ()) -> None:
        self._seconds = list(seconds)

    def add(self, seconds: Iterable[float]) -> None:
        self._seconds.extend(seconds)

    @property
    def repeats(self) -> int:
        return len(self._seconds)

    @property
    def median_seconds(self) -> float:
        return statistics.median(self._seconds)

    @property
    def total_seconds(self) -> float:
        return math.fsum(self._seconds)

    @property
    def interval_seconds(self) -> tuple[float, float]:
        return median_interval(self._seconds)

    @property
    def uncertainty(self) -> float:
        """The larger distance of an end of the interval from the median, as a
        share of it; infinite below two repeats."""
        if self.repeats < 2 or not self.median_seconds > 0:
            return math.inf
        low, high = self.interval_seconds
        return max(high - self.median_seconds, self.median_seconds - low) / self.median_seconds

    @property
    def outliers(self) -> int:
        """Repeats whose modified z-score, 0.6745 |x - median| / MAD, is above 3.5.

        Source: Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993. With a MAD of zero, every repeat that
        differs.
        """
        median = self.median_seconds
        away = [abs(seconds - median) for seconds in self._seconds]
        mad = statistics.median(away)
        return sum(_MAD_OF_NORMAL * each > _OUTLYING_SCORE * mad for each in away)

    def enough(self, precision: Precision) -> bool:
        """Whether more repeats would not improve the result."""
        if self.repeats >= precision.most_repeats:
            return True
        return self.repeats >= 1 and (
            self.repeats >= precision.least(self.median_seconds) and self.uncertainty <= precision.tolerance
        )

    def point(self, at: Sizes) -> Point:
        low, high = self.interval_seconds
        return Point(at=at, seconds=self.median_seconds, low_seconds=low, high_seconds=high, repeats=self.repeats)


def median_interval(seconds: Sequence[float]) -> tuple[float, float]:
    """Return the 95% confidence interval of the median of `seconds`, for any distribution.

    It lies between the order statistics x(l) and x(n + 1 - l), with the largest l for which P(l <= B < n + 1 - l) >=
    0.95, B ~ Binomial(n, 1/2). Source: David and Nagaraja, Order Statistics, 3rd edition, 2003, section 7.1. Fewer than
    six values cannot give 95%. For them the whole range is returned, which holds the median with probability 1 -
    2^(1 - n).
    """
    ordered = sorted(seconds)
    rank = max(1, int(stats.binom.ppf((1 - CONFIDENCE) / 2, len(ordered), 0.5)))
    return ordered[rank - 1], ordered[-rank]
