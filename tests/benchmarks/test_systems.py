"""Every system of the list has a line, and docs/systems.md shows what the command prints."""

from pathlib import Path

import pytest

from shardwright.benchmarks.systems import __main__ as systems

_DOCUMENT = Path(__file__).parents[2] / "docs" / "systems.md"


def test_each_row_of_the_list_has_a_line() -> None:
    assert {int(one.rows) for one in systems.SYSTEMS} == {*range(1, 29)}


def test_each_line_is_printed_by_its_name_alone() -> None:
    names = [systems.short_name(one) for one in systems.SYSTEMS]
    assert len(set(names)) == len(names)


def test_the_document_shows_the_table() -> None:
    """What is predicted changes with the cost model: `python -m shardwright.benchmarks.systems --write docs/systems.md`."""
    assert systems.table() in _DOCUMENT.read_text(encoding="utf-8")


@pytest.mark.parametrize("given", [["megtron-lm"], ["--write", "nothing.md", "alst"]])
def test_a_wrong_name_or_document_is_told(given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nothing.md").write_text("no table", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"megtron-lm' is not known.*megatron-lm|nothing.md got none of it"):
        systems.main(given)
    assert (tmp_path / "nothing.md").read_text(encoding="utf-8") == "no table"
