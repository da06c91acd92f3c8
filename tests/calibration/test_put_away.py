"""The totals of rows put away: which rows they count, and that no row shows alone."""

from pathlib import Path

import pytest

from shardwright.calibration.put_away import by_document, main, order_line, score
from shardwright.calibration.tables import PUT_AWAY, TABLES, used_rows
from shardwright.validation.table import read_table
from tests.validation.made_up_rows import LLAMA_ROW, write_csv

_USED, _AWAY, _ADAPTER = "dgxc", PUT_AWAY[0], "lora"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Rows of the published table under made-up ids: one used, one put away, one of adapters."""
    header, first, second, *_ = TABLES[0].read_text(encoding="utf-8").splitlines()
    used = f"{_USED}-001,{first.partition(',')[2]}"
    away = f"{_AWAY}-001,{second.partition(',')[2]}"
    adapter = f"{_AWAY}-002,{second.rpartition(',')[0].partition(',')[2]},LoRA/QLoRA row (kept apart)"
    path = tmp_path / "rows.csv"
    path.write_text("\n".join([header, used, away, adapter]) + "\n", encoding="utf-8")
    return path


def test_each_row_is_on_its_side(table: Path) -> None:
    used, away, adapter = score([table])
    assert (used.source, used.is_put_away, used.trains_adapters) == (_USED, False, False)
    assert (away.source, away.is_put_away, away.trains_adapters) == (_AWAY, True, False)
    assert adapter.trains_adapters


def test_totals_show_no_row_alone(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(table)])
    shown = capsys.readouterr().out
    assert _USED in shown
    assert _AWAY in shown
    for row in read_table(table):
        assert row.id not in shown


def test_every_source_put_away_is_in_the_tables() -> None:
    sources = {row.id.rpartition("-")[0] for path in TABLES for row in read_table(path)}
    assert set(PUT_AWAY) <= sources


def test_the_model_is_built_without_them() -> None:
    used = used_rows()
    assert not {row.id.rpartition("-")[0] for row in used} & set(PUT_AWAY)
    assert all("LoRA" not in (row.reason or "") for row in used)
    assert len(used) == 789


@pytest.mark.parametrize(("rates", "tau"), [((2000, 1500), "1.00"), ((1500, 2000), "-1.00")])
def test_the_order_of_plans_is_that_of_their_seconds(tmp_path: Path, rates: tuple[int, int], tau: str) -> None:
    """FSDP alone is predicted faster than 4 pipeline stages of 2 microbatches; the names of the models differ."""
    plans = ({"tp": 1, "pp": 1, "dp": 64}, {"tp": 1, "pp": 4, "dp": 16, "vpp": 1, "micro_batch": 4})
    rows = [
        LLAMA_ROW | plan | {"id": f"{_USED}-00{number}", "model": f"GPT-X ({number})", "metric_value": rate}
        for number, (plan, rate) in enumerate(zip(plans, rates, strict=True))
    ]
    line = order_line("rows", score([write_csv(tmp_path / "rows.csv", rows)]))
    assert line is not None
    assert f"Kendall tau {tau} over 1 pairs in 1 groups" in line
    assert order_line("rows", score([write_csv(tmp_path / "one.csv", rows[:1])])) is None


def test_documents_of_few_rows_are_told_together(tmp_path: Path) -> None:
    sources = ["a.md@1"] * 3 + ["b.md@1", "b.md@2"] + ["c.md"]
    rows = [LLAMA_ROW | {"id": f"{_AWAY}-{number}", "source": source} for number, source in enumerate(sources)]
    found = by_document(score([write_csv(tmp_path / "rows.csv", rows)]))
    assert {name: len(of) for name, of in found.items()} == {"a.md": 3, "of one or two rows": 3}
