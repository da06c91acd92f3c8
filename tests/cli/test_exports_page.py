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


def test_a_setup_is_compared(command: Command, tmp_path: Path) -> None:
    """Beside strategies, on the stack that its framework is."""
    path = tmp_path / "ds.json"
    path.write_text(
        '{"train_batch_size": 64, "train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": true}, "zero_optimization": {"stage": 3}}'
    )
    job = ("compare", "llama-3.1-8b", "--cluster", "h100-sxm:16", "--seq-len", "4096", "--global-batch", "64")
    options = ("--plan", path, "--strategy", "zero3", "--json")
    assert "give --stack hf-deepspeed" in command(*job, *options).err
    rows = command(*job, *options, "--stack", "hf-deepspeed").json()["rows"]
    assert [row["name"] for row in rows] == ["zero3", "ds.json"]
    assert rows[1]["plan"]["micro_batch"] == 1
    path.write_text('{"train_batch_sise": 64}')
    assert "train_batch_sise" in command(*job, *options).err
