"""`validate` compares predictions with a table of measured runs."""

from pathlib import Path
from typing import Annotated

import typer

from .options import ForceOption, JsonOption, console, print_json, refuse_existing


def validate(
    table: Annotated[
        Path,
        typer.Argument(metavar="TABLE", help="Name a CSV table in the schema of shardwright/calibration/published."),
    ],
    report: Annotated[Path | None, typer.Option(help="Write the errors as an HTML page here, with charts.")] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Predict every row of a table; print errors, rank agreement, and why rows were skipped."""
    from rich.console import Console
    from rich.progress import Progress

    from shardwright.catalog import standard_node
    from shardwright.costmodel import estimate_plan
    from shardwright.validation.pages import validation_tables
    from shardwright.validation.scores import validate_table
    from shardwright.validation.table import read_table

    refuse_existing(report, force=force, inputs=[table])
    read_table(table)  # raises for a wrong table before the progress bar starts
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("predicting", total=None)
        validation = validate_table(
            table,
            estimate=estimate_plan,
            standard_node=standard_node,
            progress=lambda done, rows: progress.update(task, completed=done, total=rows),
        )
    if report:
        from shardwright.validation.pages import write_validation_report

        write_validation_report(report, validation, table_name=table.name)
    if as_json:
        print_json(validation.to_json())
    else:
        console().print(validation_tables(validation))
