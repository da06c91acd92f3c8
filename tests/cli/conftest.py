"""Fixtures of the command line's tests."""

from pathlib import Path

import pytest

from shardwright.specs.profile import write_profile
from tests.cli.command import JOB, Command
from tests.executor.forked import forked_ranks
from tests.reports.made_up_profile import profile

__all__ = ["command", "forked_ranks", "plan_path", "profile_path", "store"]


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where profiles lie: nowhere near the user's own."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "shardwright" / "profiles"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


@pytest.fixture
def plan_path(command: Command, tmp_path: Path) -> Path:
    """A plan for Llama-3.2-1B on eight H100s."""
    path = tmp_path / "plan.json"
    assert command("plan", "llama-3.2-1b", *JOB, "--out", path).code == 0
    return path


@pytest.fixture
def profile_path(tmp_path: Path) -> Path:
    """A made-up profile of a CPU."""
    path = tmp_path / "profile.json"
    write_profile(path, profile())
    return path
