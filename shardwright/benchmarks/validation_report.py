"""The report of a validation: one HTML file that needs nothing else."""

from pathlib import Path

from . import readable
from .page import render_page, write_page
from .validate import Validation


def write_validation_report(path: Path, validation: Validation, *, table_name: str) -> None:
    """Write the errors, their figures, every row and every reason for a skipped one.

    Raises:
        SpecError: the folder is missing or not writable.
    """
    write_page(path, render_validation_report(validation, table_name=table_name))


def render_validation_report(validation: Validation, *, table_name: str) -> str:
    """The page as text; `table_name` says what was validated."""
    # matplotlib takes half a second to import, which only who draws should wait for
    from .plots import errors_by_source, scatter
    from .svg import draw

    summary = validation.summary
    sources = len(summary.by_source)
    figures = {
        "scatter": draw(scatter(validation), height=6.4, label="Predicted against measured step time"),
        "errors": draw(errors_by_source(validation), height=1.0 + 0.42 * sources, label="Errors by source"),
    }
    return render_page(
        "validation.html.j2",
        title=f"Predictions against {table_name}",
        summary=summary,
        rows=validation.rows,
        groups=[("Source", summary.by_source), ("Device", summary.by_gpu), ("Framework", summary.by_framework)],
        figures=figures if summary.predicted else {},
        readable=readable,
    )
