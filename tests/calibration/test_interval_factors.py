"""Quantiles of measured over predicted seconds, worked out by hand, and how many left-out rows they hold."""

import pytest

from shardwright.calibration.interval_factors import Residual, interval_factors, left_out_coverage


def rows(source: str, *factors: float, unsettled: bool = False) -> list[Residual]:
    return [Residual(source, unsettled, factor) for factor in factors]


def one_each(*factors: float) -> list[Residual]:
    return [row for index, factor in enumerate(factors) for row in rows(f"source {index}", factor)]


@pytest.mark.parametrize(
    ("level", "low", "high"),
    [
        # five equal rows stand at the quantiles 0.1, 0.3, 0.5, 0.7 and 0.9
        (0.8, 1.0, 5.0),
        (0.4, 2.0, 4.0),
        (0.5, 1.75, 4.25),
        (0.95, 1.0, 5.0),
    ],
)
def test_quantiles_of_five_sources(level: float, low: float, high: float) -> None:
    assert interval_factors(one_each(3, 1, 5, 2, 4), level) == pytest.approx((low, high))


def test_a_source_counts_with_the_root_of_its_rows() -> None:
    """Four rows of one source weigh a half each, one of another 1: quantiles 1/12, 3/12, 5/12, 7/12 and 10/12."""
    low, high = interval_factors([*rows("large", 1, 2, 3, 4), *rows("small", 10)], 0.5)
    assert (low, high) == pytest.approx((2, 4 + (10 - 4) * 2 / 3))


def test_rows_of_one_source_are_held_by_the_others_alone() -> None:
    """Each of two sources is precise, and says nothing about the other."""
    assert left_out_coverage([*rows("a", 1, 1, 1, 1), *rows("b", 2, 2, 2, 2)], 0.8) == 0


def test_coverage_by_hand() -> None:
    """b alone gives 0.9 to 1.3, which holds both rows of a; a gives 1.0 to 1.2, which holds one of three of b."""
    assert left_out_coverage([*rows("a", 1.0, 1.2), *rows("b", 0.9, 1.1, 1.3)], 0.8) == 3 / 5


def test_kinds_of_run_have_intervals_of_their_own() -> None:
    settled = [*rows("a", 1.0, 1.2), *rows("b", 0.9, 1.1, 1.3)]
    wild = [*rows("c", 0.1, 9.0, unsettled=True), *rows("d", 0.2, 8.0, unsettled=True)]
    assert left_out_coverage([*settled, *wild], 0.8) == (3 + 2) / 9  # c holds both of d


def test_a_kind_of_one_source_alone_is_held_by_nothing() -> None:
    alone = rows("c", 1.0, 1.0, unsettled=True)
    assert left_out_coverage([*rows("a", 1.0, 1.2), *rows("b", 0.9, 1.3), *alone], 0.8) == 2 / 6
