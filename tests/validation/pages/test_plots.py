"""Validation as figures and as a page."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from shardwright.reports.figures.files import write_plot

from shardwright.base.errors import SpecError
from shardwright.validation.pages.plots import errors_by_source, scatter, write_validation_plots
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
    axes = Figure().add_subplot()
    scatter(validation)(axes)
    _, labels = axes.get_legend_handles_labels()
    assert labels[:2] == ["torchtitan (2)", "Megatron-LM (1)"]
    points = np.concatenate([np.asarray(group.get_offsets()) for group in axes.collections[:2]])
    times = [(row.measured_seconds, row.predicted_seconds) for row in validation.rows if row.skipped is None]
    np.testing.assert_allclose(sorted(points.tolist()), sorted(times))


def test_errors_stand_in_the_line_of_their_source_with_their_median(validation: Validation) -> None:
    axes = Figure().add_subplot()
    errors_by_source(validation)(axes)
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "bench README.md (2)",
        "arXiv 2104.04473 Table 2 (1)",
    ]
    errors = [100 * row.relative_error for row in validation.rows if row.relative_error is not None]
    medians = [np.asarray(line.get_xdata())[0] for line in axes.lines[:2]]
    assert medians == pytest.approx([(errors[0] + errors[2]) / 2, errors[1]])


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("A.PNG", b"\x89PNG")])
def test_the_ending_chooses_the_format(tmp_path: Path, validation: Validation, name: str, start: bytes) -> None:
    write_plot(tmp_path / name, scatter(validation))
    assert (tmp_path / name).read_bytes().startswith(start)


def test_an_unknown_ending_is_one_clear_line(tmp_path: Path, validation: Validation) -> None:
    with pytest.raises(SpecError, match=r"cannot tell the figure's format; end the name with \.png, \.svg, \.pdf"):
        write_plot(tmp_path / "plot.docx", scatter(validation))
    with pytest.raises(SpecError, match="cannot be written"):
        write_plot(tmp_path / "absent" / "plot.png", scatter(validation))


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


def test_the_scatters_axes_are_plain_numbers(validation: Validation) -> None:
    """The figures don't parse mathematics, in which logarithmic axes are labelled by default."""
    assert "mathdefault" not in render_validation_report(validation, table_name="t.csv")


def test_a_table_without_a_prediction_has_a_page_without_figures(tmp_path: Path) -> None:
    nothing = _validation(tmp_path, LLAMA_ROW | {"experts": 8})
    write_validation_report(tmp_path / "v.html", nothing, table_name="t.csv")
    page = (tmp_path / "v.html").read_text()
    assert "0 of 1 rows predicted" in page
    assert "<svg" not in page


def test_figures_are_written_into_a_folder_that_is_made(tmp_path: Path, validation: Validation) -> None:
    written = write_validation_plots(tmp_path / "new" / "figures", validation)
    assert [path.name for path in written] == ["predicted-against-measured.png", "error-by-source.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)


def test_no_prediction_is_no_figure(tmp_path: Path) -> None:
    nothing = _validation(tmp_path, LLAMA_ROW | {"experts": 8})
    with pytest.raises(SpecError, match="nothing to plot"):
        write_validation_plots(tmp_path / "figures", nothing)
    assert not (tmp_path / "figures").exists()


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
