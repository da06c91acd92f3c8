"""Fixtures of the command line's tests."""

from pathlib import Path

import pytest

from tests.cli.command import JOB, Command


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


@pytest.fixture
def plan_path(command: Command, tmp_path: Path) -> Path:
    """A plan for Llama-3.2-1B on eight H100s."""
    path = tmp_path / "plan.json"
    assert command("plan", "llama-3.2-1b", *JOB, "--out", path).code == 0
    return path
