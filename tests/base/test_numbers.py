"""Divisors."""

from hypothesis import given, strategies

from shardwright.base.numbers import divisors


@given(strategies.integers(1, 2000))
def test_divisors_equal_trial_division(number: int) -> None:
    assert divisors(number) == [candidate for candidate in range(1, number + 1) if number % candidate == 0]


def test_a_huge_number_is_quick() -> None:
    assert divisors(10**12)[-1] == 10**12
