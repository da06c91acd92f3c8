"""Runs the command line in this process."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from shardwright.cli import main

JOB = ("--cluster", "h100-sxm:8", "--seq-len", "1024", "--global-batch", "16")


class Result(NamedTuple):
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


class Command:
    """Calls `shardwright ARGUMENTS` as the shell would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: str | Path) -> Result:
        self._monkeypatch.setattr("sys.argv", ["shardwright", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = self._capsys.readouterr()
        return Result(int(ended.value.code or 0), printed.out, printed.err)


def assert_one_line(result: Result, *words: str, code: int = 2) -> None:
    """The command failed with `code` and one line on stderr that holds all `words`; nothing on stdout."""
    assert result.code == code, result
    assert result.out == ""
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1, result.err
    for word in words:
        assert word in result.err
