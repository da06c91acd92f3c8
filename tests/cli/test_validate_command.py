"""`validate` as the shell calls it: what it prints, writes and refuses."""

from pathlib import Path

from tests.cli.command import Command
from tests.validation.made_up_rows import LLAMA_ROW, write_csv


def _table(folder: Path) -> Path:
    rows = [LLAMA_ROW, LLAMA_ROW | {"id": "bad", "gpus": "many"}, LLAMA_ROW | {"id": "open", "micro_batch": None}]
    return write_csv(folder / "mine.csv", rows)


def test_tables_and_a_page(command: Command, tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    result = command("validate", _table(tmp_path), "--report", page)
    assert result.code == 0
    assert "2 of 3 rows predicted, 1 skipped" in result.out
    assert "micro batch: 1" in result.out
    assert "column 'gpus': given 'many'" in result.out
    assert "Predictions against mine.csv" in page.read_text(encoding="utf-8")
    assert 'data-chart="scatter"' in page.read_text(encoding="utf-8")


def test_json_alone_on_stdout(command: Command, tmp_path: Path) -> None:
    data = command("validate", _table(tmp_path), "--json").json()
    assert [found["id"] for found in data["rows"]] == ["llama-1", "bad", "open"]
    assert data["summary"]["predicted"] == 2
    assert data["summary"]["worst"][0]["step"][0]["name"] == "compute"
