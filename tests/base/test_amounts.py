"""Tokens and deadlines as a person writes them."""

from datetime import UTC, datetime

import pytest

from shardwright.base import SpecError, read_deadline, read_tokens

_NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("1T", 1e12), ("300B", 3e11), ("300g", 3e11), ("1.5e12", 1.5e12), ("1_000_000", 1e6), ("2 k", 2000.0), ("7", 7.0)],
)
def test_tokens(text: str, tokens: float) -> None:
    assert read_tokens(text) == tokens


@pytest.mark.parametrize("text", ["1Q", "", "-1T", "nan", "inf", "1TB", "1e", "one"])
def test_what_is_no_number_of_tokens(text: str) -> None:
    with pytest.raises(SpecError, match=r"is no number of tokens; write it as 300B, 1T"):
        read_tokens(text)


@pytest.mark.parametrize("text", ["0", "0.2", "1e19", "1e99"])
def test_tokens_out_of_range(text: str) -> None:
    with pytest.raises(SpecError, match="give 1 or more, up to 1e18"):
        read_tokens(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10d", 864000.0),
        ("36h", 129600.0),
        ("2w", 1209600.0),
        ("1.5 d", 129600.0),
        ("90min", 5400.0),
        ("30s", 30.0),
        ("2026-11-30", 43200.0),
        ("2026-11-29T18:30", 23400.0),
    ],
)
def test_deadline(text: str, seconds: float) -> None:
    assert read_deadline(text, _NOW) == seconds


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("10x", "is no deadline; write a span as 36h, 10d or 2w"),
        ("10", "is no deadline"),
        ("-3d", "is no deadline"),
        ("0d", "leaves no time"),
        ("2026-11-29", "is past: now it is 2026-11-29T12:00 in UTC"),
        ("2020-01-01", "is past"),
        ("2027-02-30", "is no date of the calendar"),
    ],
)
def test_what_is_no_deadline(text: str, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        read_deadline(text, _NOW)


def test_this_very_moment_is_no_deadline() -> None:
    with pytest.raises(SpecError, match="is past"):
        read_deadline("2026-11-29", datetime(2026, 11, 29, tzinfo=UTC))
