"""`python -m shardwright.calibration.put_away`: errors of the rows that the model was built with, beside those put away.

Rows put away are for scoring only. This command prints their totals by source and by class, never a row, so that nobody
tunes on one. Rows of runs that train adapters are counted apart.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from shardwright.base import units as readable
from shardwright.costmodel import run_class
from shardwright.validation.rows import MeasuredRun, trains_adapters
from shardwright.validation.scores import Outcome, Trial, predict_rows, rank_agreement, summarise_rows
from shardwright.validation.table import TableRow, read_table

from .tables import TABLES, is_put_away, source_of

# A run that ran although this is the probability that it fits.
_DOUBTED = 0.05
_FEWEST_OF_A_DOCUMENT = 3
_COLUMNS = (
    "rows",
    "skipped",
    "median",
    "mean",
    "p90",
    "signed",
    "80%",
    "95%",
    "memory",
    "median",
    "mean",
    "5% under",
    "doubted",
)


class Scored(NamedTuple):
    """A row and what became of it."""

    row: TableRow
    outcome: Outcome

    @property
    def source(self) -> str:
        return source_of(self.row)

    @property
    def is_put_away(self) -> bool:
        return is_put_away(self.row)

    @property
    def trains_adapters(self) -> bool:
        return trains_adapters(self.row)

    @property
    def is_skipped(self) -> bool:
        """Whether neither time nor memory is predicted."""
        result = self.outcome.result
        return result.predicted is None and result.memory_predicted_bytes is None

    @property
    def kind(self) -> str:
        """The class of the run by what is least sure about it (`run_class`); dense ones also by what the row states."""
        run = self.outcome.run
        if not isinstance(run, MeasuredRun):
            return "not read"
        kind = run_class(run.model, run.cluster.node.device, run.training)
        if kind != "dense":
            return kind
        return "dense, choices unknown" if run.unknown else "dense, stated"


def score(tables: Sequence[Path]) -> list[Scored]:
    """Predict every row of every table."""
    found = []
    for path in tables:
        rows = read_table(path)
        found += [Scored(row, outcome) for row, outcome in zip(rows, predict_rows(rows), strict=True)]
    return found


def totals_table(title: str, groups: dict[str, list[Scored]]) -> Table:
    """One line a group: rows, the share without any prediction, errors of time, coverage, errors of memory."""
    table = Table("", title=title, title_justify="left")
    for column in _COLUMNS:
        table.add_column(column, justify="right")
    for name, rows in groups.items():
        table.add_row(name, *_cells(rows))
    return table


def _cells(rows: Sequence[Scored]) -> list[str]:
    summary = summarise_rows([one.outcome for one in rows])
    skipped = readable.share(sum(one.is_skipped for one in rows) / len(rows)) if rows else ""
    errors, memory = summary.errors, summary.memory
    times = (errors.median, errors.mean, errors.p90) if errors else ()
    return [
        str(len(rows)),
        skipped,
        *(map(readable.share, times) if errors else ("", "", "")),
        readable.signed_share(errors.mean_signed) if errors else "",
        *("" if share is None else readable.share(share) for share in (summary.coverage_80, summary.coverage_95)),
        *([str(memory.count), *map(readable.share, (memory.median, memory.mean))] if memory else ("0", "", "")),
        "" if summary.memory_under_predicted is None else readable.share(summary.memory_under_predicted),
        str(sum((one.outcome.result.fits_probability or 1.0) < _DOUBTED for one in rows)),
    ]


def order_line(name: str, rows: Sequence[Scored]) -> str | None:
    """How well the order of plans is predicted, over runs of one source with the same architecture, devices and batch.

    A table may write the plan into the name of the model, so the name says nothing. None without two runs of one job.
    """
    trials = [
        Trial(
            group=(one.source, run.model.model_copy(update={"name": "any"}), run.device, plan.mesh.ranks, run.training),
            plan=(plan, run.model.name),
            measured_seconds=timed.measured.seconds,
            predicted_seconds=timed.predicted_seconds,
        )
        for one in rows
        if (timed := one.outcome.timed) is not None
        for run, plan in [(timed.run, timed.prediction.plan)]
    ]
    found = rank_agreement(trials)
    if found is None:
        return None
    return (
        f"{name}, order of plans for the same job: Kendall tau {found.kendall_tau:.2f} over {found.pairs} pairs in {found.groups} "
        f"groups; taking the plan predicted fastest costs {readable.share(found.mean_regret)} (mean), "
        f"{readable.share(found.worst_regret)} (worst)"
    )


def _grouped(rows: Sequence[Scored], key: Callable[[Scored], str]) -> dict[str, list[Scored]]:
    return {name: [one for one in rows if key(one) == name] for name in sorted({key(one) for one in rows})}


def by_document(rows: Sequence[Scored]) -> dict[str, list[Scored]]:
    """Return the rows of each document; those of documents with one or two rows are together, so that none shows alone."""
    found = _grouped(rows, lambda one: (one.row.source or "").partition("@")[0])
    few = [one for of in found.values() if len(of) < _FEWEST_OF_A_DOCUMENT for one in of]
    large = {name: of for name, of in found.items() if len(of) >= _FEWEST_OF_A_DOCUMENT}
    return large | ({"of one or two rows": few} if few else {})


def main(arguments: Sequence[str] | None = None) -> None:
    """Predict and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", type=Path, default=TABLES, help="CSV tables; default: the published ones")
    console = Console(width=170)
    rows = score(parser.parse_args(arguments).tables)
    whole = [one for one in rows if not one.trains_adapters]
    used, away = ([one for one in whole if one.is_put_away == put_away] for put_away in (False, True))
    sides = {
        "used": used,
        "used, core": [one for one in used if one.outcome.run.core],
        "put away": away,
        "both": whole,
    }
    adapters = [one for one in rows if one.trains_adapters]
    sides |= {
        f"adapters, {name}": [one for one in adapters if one.is_put_away == put_away]
        for name, put_away in (("used", False), ("put away", True))
    }
    sides["adapters"] = adapters
    console.print(totals_table("All rows; adapters are counted apart", {name: of for name, of in sides.items() if of}))
    for name, side in (("used", used), ("put away", away)):
        console.print(totals_table(f"Rows {name}, by class", _grouped(side, lambda one: one.kind)))
        console.print(totals_table(f"Rows {name}, by source", _grouped(side, lambda one: one.source)))
        lines = [
            order_line(f"Rows {name}", side),
            *(order_line(key, of) for key, of in _grouped(side, lambda one: one.source).items()),
        ]
        console.print("\n".join(line for line in lines if line))
    console.print(totals_table("Rows put away, by document", by_document(away)))
    console.print(totals_table("Adapters, by source", _grouped(adapters, lambda one: one.source)))


if __name__ == "__main__":
    main()
