"""Validation as charts and as a page."""

from pathlib import Path

import pytest

from shardwright.validation.pages.plots import errors_by_source, scatter
from shardwright.validation.pages.report import render_validation_report, write_validation_report
from shardwright.validation.scores.validate import Validation, validate_table
from tests.validation.fake_costs import estimate_plan, standard_node
from tests.validation.made_up_rows import LLAMA_ROW, write_csv


def _validation(tmp_path: Path, *rows: dict[str, object]) -> Validation:
    table = write_csv(tmp_path / "t.csv", rows)
    return validate_table(table, estimate=estimate_plan, standard_node=standard_node)


@pytest.fixture
def validation(tmp_path: Path) -> Validation:
    return _validation(
        tmp_path,
        LLAMA_ROW | {"id": "a"},
        LLAMA_ROW
        | {"id": "b", "source": "arXiv 2104.04473 Table 2", "framework": "Megatron-LM", "sp": False}
        | {"metric_value": 1000.0, "peak_mem_gb": 30.0},
        LLAMA_ROW | {"id": "c", "metric_value": 1500.0},
        LLAMA_ROW | {"id": "<b>moe</b>", "experts": 8},
    )


def test_the_scatter_holds_every_predicted_row(validation: Validation) -> None:
    chart = scatter(validation)
    loose = [curve for curve in chart.curves if curve.loose]
    assert [curve.name for curve in loose] == ["torchtitan (2)", "Megatron-LM (1)"]
    points = sorted(point for curve in loose for point in curve.points)
    rows = [row for row in validation.rows if row.skipped is None]
    assert points == sorted((row.measured_seconds, row.predicted_seconds, row.id) for row in rows)


def test_the_guides_are_what_was_measured_and_a_band_around_it(validation: Validation) -> None:
    guides = [curve for curve in scatter(validation).curves if not curve.loose]
    ratios = [{round(y / x, 9) for x, y, *_ in curve.points if y is not None} for curve in guides]
    assert ratios == [{1.0}, {1.25}, {0.8}]
    low, high = (point[0] for point in guides[0].points)
    assert all(low < row.measured_seconds < high for row in validation.rows if row.measured_seconds is not None)


def test_errors_stand_in_the_row_of_their_source_with_their_median(validation: Validation) -> None:
    chart = errors_by_source(validation)
    assert [strip.name for strip in chart.strips] == ["bench README.md (2)", "arXiv 2104.04473 Table 2 (1)"]
    errors = [row.relative_error for row in validation.rows if row.relative_error is not None]
    assert [strip.quartiles[2] for strip in chart.strips] == pytest.approx([(errors[0] + errors[2]) / 2, errors[1]])
    assert chart.strips[1].values == ((errors[1], "b"),)
    assert list(chart.strips[0].quartiles) == sorted(chart.strips[0].quartiles)


def test_the_page_holds_errors_rows_and_reasons(validation: Validation) -> None:
    page = render_validation_report(validation, table_name="mine <i>.csv")
    assert "Predictions against mine &lt;i&gt;.csv" in page
    assert "3 of 4 rows predicted" in page
    for row in validation.rows:
        if row.relative_error is not None:
            assert f"{100 * row.relative_error:+.1f}%" in page
    assert "<b>moe" not in page
    assert "&lt;b&gt;moe&lt;/b&gt;</td><td" in page
    assert "experts of a token" in page
    assert 'aria-label="Errors by source"' in page
    assert validation.summary.memory is not None
    assert f"{100 * validation.summary.memory.median:.1f}%" in page


def test_a_table_without_a_prediction_has_a_page_without_figures(tmp_path: Path) -> None:
    nothing = _validation(tmp_path, LLAMA_ROW | {"experts": 8})
    write_validation_report(tmp_path / "v.html", nothing, table_name="t.csv")
    page = (tmp_path / "v.html").read_text()
    assert "0 of 1 rows predicted" in page
    assert "data-chart" not in page
    assert "<script" not in page


def test_the_page_takes_the_worst_rows_apart(validation: Validation) -> None:
    page = render_validation_report(validation, table_name="t.csv")
    worst = validation.summary.worst[0]
    assert f"<h3>{worst.id}: {100 * worst.relative_error:+.1f}%</h3>" in page
    assert "dp_shard64; ZeRO-3; micro batch 2; recompute none" in page
    assert "Assumed: network of the standard node." in page
    assert "compute</td>" in page


def test_the_page_says_what_the_core_is_only_where_it_is_not_all(tmp_path: Path, validation: Validation) -> None:
    assert "core: step time" not in render_validation_report(validation, table_name="t.csv")
    mixed = _validation(tmp_path, LLAMA_ROW, LLAMA_ROW | {"id": "n", "framework": "nanotron v0.5"})
    page = render_validation_report(mixed, table_name="t.csv")
    assert "core: step time" in page
    assert "median, core rows (1)" in page
    assert "1 rows of the core" in page
    assert [row.id for row in mixed.summary.core_worst] == ["llama-1"]
    assert [row.id for row in mixed.summary.worst] == ["llama-1", "n"]
