"""Medians, their intervals, outliers, and when it is enough."""

import math
import random

import pytest

from shardwright.profiler.timing.sampling import Precision, Samples, median_interval


class TestInterval:
    @pytest.mark.parametrize(
        ("repeats", "low", "high"),
        [(1, 1, 1), (3, 1, 3), (5, 1, 5), (6, 1, 6), (8, 1, 8), (9, 2, 8), (12, 3, 10), (20, 6, 15), (30, 10, 21)],
    )
    def test_order_statistics(self, repeats: int, low: int, high: int) -> None:
        """The ranks that tables of the sign test give (Conover 1999, table A3, at 95%)."""
        shuffled = random.Random(1).sample(range(1, repeats + 1), repeats)
        assert median_interval([float(value) for value in shuffled]) == (low, high)

    @pytest.mark.parametrize("repeats", [6, 9, 25])
    def test_it_holds_the_median_as_often_as_it_says(self, repeats: int) -> None:
        """Of a skewed distribution, exp(normal), whose median is 1."""
        made_up = random.Random(7)
        trials = 2000
        held = 0
        for _ in range(trials):
            low, high = median_interval([made_up.lognormvariate(0, 1) for _ in range(repeats)])
            held += low <= 1 <= high
        assert 0.94 <= held / trials <= 0.995


class TestSamples:
    def test_a_point_is_the_median_and_its_interval(self) -> None:
        samples = Samples([3.0, 1.0, 2.0, 5.0, 4.0, 60.0])
        point = samples.point((8.0, 4.0))
        assert (point.seconds, point.low_seconds, point.high_seconds, point.repeats) == (3.5, 1.0, 60.0, 6)
        assert point.at == (8.0, 4.0)

    def test_uncertainty_is_the_farther_end(self) -> None:
        assert Samples([1.0, 1.0, 1.0, 1.0, 1.0, 1.5]).uncertainty == pytest.approx(0.5)
        assert Samples([0.2, 1.0, 1.0, 1.0, 1.0, 1.5]).uncertainty == pytest.approx(0.8)

    def test_one_repeat_says_nothing_about_spread(self) -> None:
        assert Samples([1.0]).uncertainty == math.inf

    def test_outliers_are_counted_and_kept(self) -> None:
        usual = [1.00, 1.01, 0.99, 1.02, 0.98, 1.00, 1.01]
        samples = Samples([*usual, 3.0, 0.2])
        assert samples.outliers == 2
        assert samples.repeats == 9

    def test_an_outlier_is_five_deviations_away(self) -> None:
        """3.5 / 0.6745 = 5.2 times the MAD, which is 0.01 here."""
        usual = [0.98, 0.99, 0.99, 1.00, 1.01, 1.01, 1.02]
        assert Samples([*usual, 0.94, 1.06]).outliers == 2
        assert Samples([*usual, 0.95, 1.05]).outliers == 0

    def test_what_only_spreads_is_no_outlier(self) -> None:
        assert Samples([1.0, 1.2, 1.4, 1.6, 1.8, 2.0]).outliers == 0

    def test_total(self) -> None:
        assert Samples([0.5, 0.25]).total_seconds == 0.75


class TestEnough:
    def test_a_tight_interval_is_enough_from_six_repeats_on(self) -> None:
        precision = Precision(tolerance=0.03)
        assert not Samples([1e-3] * 5).enough(precision)
        assert Samples([1e-3] * 6).enough(precision)

    def test_slow_work_needs_three(self) -> None:
        assert not Samples([1.0] * 2).enough(Precision())
        assert Samples([1.0] * 3).enough(Precision())

    def test_a_wide_interval_is_not_enough(self) -> None:
        wide = [1.0e-3, 1.1e-3] * 10
        assert not Samples(wide).enough(Precision(tolerance=0.03))
        assert Samples(wide).enough(Precision(tolerance=0.11))

    def test_there_is_an_end_to_repeating(self) -> None:
        wide = [1.0e-3, 2.0e-3] * 10
        assert Samples(wide).enough(Precision(most_repeats=20))
        assert not Samples(wide).enough(Precision(most_repeats=21))

    def test_nothing_is_not_enough(self) -> None:
        assert not Samples().enough(Precision())
