"""The commands on docs/exports.md print what the page shows."""

import re
import shlex
from pathlib import Path

import pytest

from tests.cli.command import Command

PAGE = Path(__file__).parents[2] / "docs" / "exports.md"
_FILE = re.compile(r"^`([\w.]+)`:\n\n```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SHOWN = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
_TYPED = re.compile(r"(?:[^\n]*\\\n)*[^\n]*\n")  # a line, and those before it that end in a backslash


def shown() -> list[tuple[str, str]]:
    """Commands and what the page shows of their output; empty where it shows nothing."""
    found = []
    for block in _SHOWN.findall(PAGE.read_text(encoding="utf-8")):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            typed = _TYPED.match(part)
            assert typed is not None
            found.append((typed[0].replace("\\\n", " "), part[typed.end() :]))
    return found


def test_the_page_shows_what_is_printed(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages first, as on a terminal; the files are those that the page shows."""
    monkeypatch.chdir(tmp_path)
    for name, text in _FILE.findall(PAGE.read_text(encoding="utf-8")):
        (tmp_path / name).write_text(text)
    commands = shown()
    assert len(commands) > 5
    for line, output in commands:
        program, *arguments = shlex.split(line)
        assert program == "shardwright"
        printed = command(*arguments)
        if output:
            assert printed.err + printed.out == output, line
