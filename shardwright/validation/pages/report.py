"""The report of a validation: one self-contained HTML file."""

from pathlib import Path

from shardwright.base import units as readable
from shardwright.reports import render_page, write_page
from shardwright.reports.charts import Chart, chart_scripts
from shardwright.validation.scores import Validation

from .plots import errors_by_source, scatter
from .tables import summary_sentences


def write_validation_report(path: Path, validation: Validation, *, table_name: str) -> None:
    """Write the errors, their figures, the worst rows in detail, every row and every reason for a skipped one.

    Raises:
        SpecError: the folder is missing or not writable.
    """
    write_page(path, render_validation_report(validation, table_name=table_name))


def render_validation_report(validation: Validation, *, table_name: str) -> str:
    """The page as text; `table_name` says what was validated."""
    summary = validation.summary
    charts: dict[str, Chart] = {}
    if summary.predicted:
        charts = {"scatter": scatter(validation), "errors": errors_by_source(validation)}
    core = summary.core if summary.core and summary.core.predicted < summary.predicted else None
    return render_page(
        "validation.html.j2",
        title=f"Predictions against {table_name}",
        summary=summary,
        core=core,
        sentences=summary_sentences(summary),
        core_sentences=summary_sentences(core) if core else [],
        rows=validation.rows,
        groups=[
            ("Source", summary.by_source),
            ("Framework", summary.by_framework),
            ("Device", summary.by_gpu),
            ("Kind of model", summary.by_model_kind),
            ("Metric", summary.by_metric),
        ],
        charts=charts,
        scripts=chart_scripts(charts) if charts else "",
        readable=readable,
    )
