"""An answer as a table and as a page: one row for each job that was tried, the answer marked, and sentences."""

from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shardwright.reports import render_page, write_page
from shardwright.reports.charts import chart_scripts
from shardwright.reports.plan import choice_words
from shardwright.specs import Plan

from .curve import Curve, curve_chart


@dataclass(frozen=True)
class Answer:
    """What a question found. `columns` hold figures, right of the plan's choices.

    Attributes:
        title: the question, the model and the cluster.
        first, columns: heads of the first column and of the figures.
        rows: the value, the plan, and the figures, each row in the order of the columns.
        best: the index of the row that answers the question; None where none does.
        lines: sentences that say what is known about the answer.
        curve: the figure of the rows; None for a single row.
    """

    title: str
    first: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, Plan, tuple[str, ...]], ...]
    best: int | None
    lines: tuple[str, ...]
    curve: Curve | None


def answer_table(answer: Answer) -> RenderableType:
    """The rows, readable in 100 columns, and the sentences below them."""
    table = Table(title=Text(answer.title), title_justify="left", box=SIMPLE_HEAD)
    table.add_column(answer.first, justify="right", no_wrap=True)
    table.add_column("choices")
    for column in answer.columns:
        table.add_column(column, justify="right", no_wrap=True)
    for place, (value, plan, figures) in enumerate(answer.rows):
        style = "bold" if place == answer.best else ""
        table.add_row(*map(Text, (value, choice_words(plan), *figures)), style=style)
    return Group(table, *map(Text, answer.lines))


def write_answer_report(path: Path, answer: Answer) -> None:
    """Write the answer as one HTML page: its chart, rows and sentences.

    Raises:
        SpecError: the folder is missing or not writable.
    """
    write_page(path, render_answer(answer))


def render_answer(answer: Answer) -> str:
    """The page as text."""
    charts = {"curve": curve_chart(answer.curve)} if answer.curve else {}
    return render_page(
        "answer.html.j2",
        title=answer.title,
        lines=answer.lines,
        columns=(answer.first, "choices", *answer.columns),
        rows=[
            ((value, choice_words(plan), *figures), place == answer.best)
            for place, (value, plan, figures) in enumerate(answer.rows)
        ],
        label=answer.curve.title if answer.curve else "",
        scripts=chart_scripts(charts) if charts else "",
    )
