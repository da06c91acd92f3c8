"""Values that no file holds are refused by their place; what is shown fits a line and moves no cursor."""

import os
import threading
from pathlib import Path

import pytest

from shardwright.base import SpecError, check_values, one_line, read_json, read_text, shown


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"a": [1, {"b": 10**400}]}, "'a.1.b' is above 1e+30"),
        ({"rate": 1e-300}, "'rate' is 1e-300, nearer to 0"),
        ({"name": "\x1b[31mred"}, "'name' holds the control character U+001B"),
        ({"name": "\ud800"}, "'name' holds the control character U+D800"),
        ({"\x07bell": 1}, "a key holds the control character U+0007"),
        (["x" * 10_001], "'0' holds a text of 10001 characters"),
        (float("-1e300"), "file: is above 1e+30"),
    ],
)
def test_the_place_and_the_fault_are_named(data: object, words: str) -> None:
    with pytest.raises(SpecError, match=r"^file: ") as refused:
        check_values(data, "file")
    assert words in str(refused.value)


def test_what_people_write_passes() -> None:
    check_values({"a": [0, -1.5, 1e30, 1e-30, True, None, "two\nlines\tof µ"], "b": {"c": 0.0}}, "file")


def test_deep_documents_do_not_end_the_stack() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    check_values(deep, "file")


def test_long_words_are_cut_and_controls_replaced() -> None:
    assert shown("a\x1b[31m b\n c") == "a\N{REPLACEMENT CHARACTER}[31m b c"
    cut = shown("x" * 5000)
    assert len(cut) <= 120
    assert cut.startswith("x" * 100)
    assert "..." in cut
    assert shown("/a/usual/path.json") == "/a/usual/path.json"


def test_a_line_keeps_its_beginning_and_its_end() -> None:
    line = one_line("error: " + "word " * 200 + "; give another")
    assert len(line) <= 400
    assert line.startswith("error: word")
    assert line.endswith("; give another")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    refused: list[str] = []

    def read() -> None:
        try:
            read_text(pipe)
        except SpecError as error:
            refused.append(str(error))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(10)
    assert refused == [f"{pipe}: is a device, pipe or socket, not a plain file"]


def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    loop = tmp_path / "loop.json"
    loop.symlink_to(loop)
    with pytest.raises(SpecError, match="cannot be read"):
        read_json(loop)
