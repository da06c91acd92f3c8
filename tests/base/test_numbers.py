"""Counts as a person writes them, and divisors."""

import pytest
from hypothesis import given, strategies

from shardwright.base.errors import SpecError
from shardwright.base.numbers import divisors, read_count


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8192", 8192),
        ("8k", 8192),
        ("4K", 4096),
        ("1M", 1024**2),
        ("1m", 1024**2),
        ("1_000_000", 1_000_000),
        ("1.5k", 1536),
        ("0.5M", 524288),
        (" 8k ", 8192),
        ("-1", -1),
        ("0", 0),
        ("9" * 20, int("9" * 20)),
        ("9007199254740993.0k", 9007199254740993 * 1024),
    ],
)
def test_count(text: str, value: int) -> None:
    assert read_count(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "k",
        "8 k",
        "8kk",
        "8kb",
        "8G",
        "1.3k",
        "1.5",
        "8192.0",
        "1e3",
        "nan",
        "inf",
        "_1",
        "1__0",
        "1_",
        "٣",
        "0x10",
        "9" * 5000,
    ],
)
def test_no_count_is_one_line(text: str) -> None:
    with pytest.raises(SpecError, match="is not a whole number; write it as 8192, 8k") as refusal:
        read_count(text)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 200


@given(strategies.integers(-(10**12), 10**12))
def test_a_count_reads_what_python_prints(number: int) -> None:
    assert read_count(str(number)) == read_count(f"{number:_}") == number
    assert read_count(f"{number}k") == 1024 * number


@given(strategies.integers(1, 2000))
def test_divisors_equal_trial_division(number: int) -> None:
    assert divisors(number) == [candidate for candidate in range(1, number + 1) if number % candidate == 0]


def test_a_huge_number_is_quick() -> None:
    assert divisors(10**12)[-1] == 10**12
