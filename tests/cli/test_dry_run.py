"""`run --dry`, and its options."""

from pathlib import Path

from shardwright.costmodel import write_plan_file
from tests.executor.dry.cases import PLANS

from .command import Command, assert_one_line


def _plan(folder: Path, name: str) -> Path:
    path = folder / "plan.json"
    write_plan_file(path, PLANS[name]())
    return path


def test_a_dry_run_prints_traced_beside_charged(command: Command, tmp_path: Path) -> None:
    result = command("run", _plan(tmp_path, "1f1b"), "--dry")
    assert result.code == 0, result.err
    assert "Rank 1 of 4 (pipeline rank 1, like 2)" in result.out
    assert "pp: send" in result.out
    assert "equal" in result.out
    assert "traced with 2 and 3 microbatches" in result.out
    assert "not charged: number of tokens, loss and norm of gradients" in result.out
    assert list(tmp_path.iterdir()) == [tmp_path / "plan.json"]  # nothing is trained, nothing written


def test_json_has_calls_and_bytes_by_axis(command: Command, tmp_path: Path) -> None:
    found = command("run", _plan(tmp_path, "tp"), "--dry", "--dry-ranks", "1", "--json").json()
    assert found["kind"] == "shardwright-dry-run"
    (rank,) = found["ranks"]
    assert rank["rank"] == 1
    for entry in rank["traffic"]:
        assert entry["axis"] == "tp"
        assert entry["bytes"]["traced"] == entry["bytes"]["charged"] > 0
        assert entry["calls"]["traced"] == entry["calls"]["charged"] > 0


def test_mistakes_give_one_line(command: Command, tmp_path: Path) -> None:
    path = _plan(tmp_path, "tp")
    assert_one_line(command("run", path, "--dry", "--dry-ranks", "2"), "rank 2", "give 0 to 1")
    assert_one_line(command("run", path, "--dry", "--dry-ranks", "0;1"), "'0;1'", "give numbers like 0,5")
    assert_one_line(command("run", path, "--dry-ranks", "0"), "--dry-ranks goes with --dry")
    assert_one_line(command("run", tmp_path / "none.json", "--dry"), "none.json")
    assert_one_line(command("run", path, "--dry", "--replan"), "--replan")
    assert_one_line(command("run", path, "--dry", "--trace", tmp_path / "trace.json"), "--trace")
