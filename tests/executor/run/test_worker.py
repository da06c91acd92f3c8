"""What a rank leaves for its launcher when it fails."""

from pathlib import Path

import pytest

from shardwright.base.errors import SpecError
from shardwright.base.failures import first_failure
from shardwright.base.stopping import StopRequest
from shardwright.executor.run import worker
from shardwright.executor.run.worker import FAILED


@pytest.fixture(autouse=True)
def no_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a launcher the watch would end this process."""
    monkeypatch.setattr(worker, "end_with_parent", lambda lives: None)
    monkeypatch.setenv("RANK", "3")


def test_the_failure_lies_in_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Here the plan is missing."""
    (tmp_path / "failures").mkdir()
    assert worker.main([str(tmp_path)], StopRequest()) == 2
    failure = first_failure(tmp_path / "failures")
    assert failure is not None
    assert (failure.rank, failure.kind) == (3, "spec")
    assert capsys.readouterr().out == ""


def test_without_room_for_it_the_launcher_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise SpecError("failure-3.json: cannot be written (No space left on device)")

    monkeypatch.setattr(worker, "record_failure", full)
    assert worker.main([str(tmp_path)], StopRequest()) == 2
    said = capsys.readouterr().out
    assert said.startswith(f"rank 3 {FAILED}")
    assert "plan.json" in said
    assert said.count("\n") == 1
