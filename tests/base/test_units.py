"""Numbers for people."""

import pytest

from shardwright.base import units as readable


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 s"),
        (2.5e-9, "2.50 ns"),
        (4.5e-5, "45.0 µs"),
        (0.0123, "12.3 ms"),
        (0.9996, "1,000 ms"),
        (1.0, "1.00 s"),
        (77.04, "77.0 s"),
        (99.96, "100 s"),
        (5999.0, "5,999 s"),
        (7500.0, "2 h 05 min"),
    ],
)
def test_seconds(value: float, text: str) -> None:
    assert readable.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.00 B"), (1023, "1,023 B"), (1024, "1.00 KiB"), (80 * 2**30, "80.0 GiB"), (1.5 * 2**40, "1.50 TiB")],
)
def test_size(value: float, text: str) -> None:
    assert readable.size(value) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(70.6e9, "", "70.6 G"), (989e12, "FLOP/s", "989 TFLOP/s"), (1007, "", "1.01 k"), (5.25, "", "5.25")],
)
def test_amount(value: float, unit: str, text: str) -> None:
    assert readable.amount(value, unit) == text


def test_shares_and_counts() -> None:
    assert readable.share(0.4125) == "41.2%"
    assert readable.signed_share(0.123) == "+12.3%"
    assert readable.signed_share(-0.05) == "-5.0%"
    assert readable.count(412345.4) == "412,345"
    numbers = {
        0: "0.00",
        0.009534: "0.00953",
        0.05: "0.05",
        0.768: "0.77",
        1.18: "1.18",
        31.06: "31.1",
        12345.6: "12,346",
    }
    assert [readable.number(value) for value in numbers] == list(numbers.values())
