"""Lengths from a text or a file, and what is said of those that cannot be read."""

from pathlib import Path

import pytest

from shardwright.base import SpecError
from shardwright.catalog.lengths_file import read_lengths


def _file(folder: Path, text: str) -> str:
    path = folder / "lengths.csv"
    path.write_text(text)
    return str(path)


def test_a_range() -> None:
    found = read_lengths("uniform:512..8k")
    assert found.name == "uniform:512..8192"
    assert found.mean_tokens == pytest.approx((512 + 8192) / 2)


@pytest.mark.parametrize(
    "text", ["10\n20\n20\n30\n", "length,count\n10,1\n20,2\n30,1\n", "tokens\n30\n\n10\n20\n 20 \n"]
)
def test_a_file(tmp_path: Path, text: str) -> None:
    found = read_lengths(_file(tmp_path, text))
    assert found.tokens == (10.0, 20.0, 30.0)
    assert found.shares == (0.25, 0.5, 0.25)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("10\n-3\n", "line 2 is '-3'"),
        ("10\n1,2,3\n", "line 2 is '1,2,3'"),
        ("10\nten\n", "line 2 is 'ten'"),
        ("10,1\n0,5\n", "line 2 is '0,5'"),
        ("\n\n", "lists no document"),
        ("10,0\n", "lists no document"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(SpecError, match=told):
        read_lengths(_file(tmp_path, text))


@pytest.mark.parametrize(
    "text",
    ["uniform:8..5", "uniform:", "uniform:a..b", "uniform:5", "uniform:0..5", "uniform:1..9999999999", "nothing.csv"],
)
def test_what_is_neither_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(SpecError, match=r"uniform:512\.\.8192"):
        read_lengths(text)
