"""`python -m shardwright.calibration.fit`: fit the cost model's constants to published training runs, and print the errors.

Errors are predicted / measured step time - 1. "Left out" predicts with constants fitted to the other sources (tables),
documents (repositories, papers) or frameworks. Rows that are put away are in neither (tables.py). The fit uses dense rows of the core in one 16-bit format; experts, fp8 and context parallelism only test.
`--write` puts the fitted values into costmodel/op_times/constants.toml and the intervals into costmodel/intervals.toml. A plan that a row leaves open may depend on them.
"""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from shardwright.base import FloatArray
from shardwright.base import units as readable
from shardwright.costmodel import LEVELS, run_class
from shardwright.costmodel.op_times import constants
from shardwright.validation.scores import Outcome, memory_error, predict_rows, summarise_errors

from .interval_factors import Residual, intervals_toml, left_out_coverage
from .known_constants import KNOWN
from .tables import adapter_rows, used_rows
from .training_fit import (
    Run,
    TrainingFit,
    document,
    document_of,
    fit_training,
    intervals,
    left_out_errors,
    left_out_fits,
    runs_of,
)

CONSTANTS = Path(constants.__file__).with_suffix(".toml")
INTERVALS = CONSTANTS.parents[1] / "intervals.toml"


def constants_table(whole: TrainingFit, by_source: Mapping[str, TrainingFit]) -> Table:
    """Each constant with its prior, its fitted value and its interval over the sources left out."""
    table = Table("constant", "known before", title="Constants", title_justify="left")
    for column in ("fitted", "80% low", "80% high"):
        table.add_column(column, justify="right")
    for name, (low, high) in intervals(whole, by_source).items():
        shown = readable.seconds if name.endswith("_seconds") else readable.number
        known = f"{shown(KNOWN[name].value)}: {KNOWN[name].source}"
        table.add_row(name, known, shown(whole.values[name]), shown(low), shown(high))
    return table


def errors_table(title: str, runs: Sequence[Run], errors: FloatArray, key: Callable[[Run], str]) -> Table:
    """Errors of the core and of each group."""
    table = Table("rows of", title=title, title_justify="left")
    for column in ("rows", "median", "mean", "p90", "worst", "mean signed"):
        table.add_column(column, justify="right")
    groups = {"core": [run.measured.core for run in runs], "core, of what is fitted": [run.fitted for run in runs]}
    groups |= {group: [key(run) == group for run in runs] for group in sorted({key(run) for run in runs})}
    for group, chosen in groups.items():
        if summary := summarise_errors(errors[chosen].tolist()):
            shares = (summary.median, summary.mean, summary.p90, summary.worst, summary.mean_signed)
            table.add_row(group, str(summary.count), *map(readable.share, shares))
        if group == "core, of what is fitted":
            table.add_section()
    return table


def residuals(runs: Sequence[Run], errors: FloatArray) -> list[Residual]:
    """Measured / predicted seconds of left-out runs."""
    return [
        Residual(
            document(run),
            run_class(run.measured.model, run.measured.cluster.node.device, run.measured.training),
            1 / (1 + error),
        )
        for run, error in zip(runs, errors.tolist(), strict=True)
    ]


def adapter_residuals(outcomes: Sequence[Outcome]) -> list[Residual]:
    """Measured / predicted seconds of runs with adapters, to which nothing is fitted: with the constants as they are."""
    timed = [one for outcome in outcomes if (one := outcome.timed) is not None]
    return [Residual(document_of(one.run.source), "adapters", 1 / (1 + one.relative_error)) for one in timed]


def memory_residuals(outcomes: Sequence[Outcome]) -> list[Residual]:
    """Measured / predicted peaks of the runs whose reading is known."""
    errors = ((outcome, memory_error(outcome)) for outcome in outcomes)
    return [
        Residual(document_of(outcome.run.source), "dense", 1 / (1 + error))
        for outcome, error in errors
        if error is not None
    ]


def written(text: str, values: Mapping[str, tuple[float, float, float]]) -> str:
    """The table's text with each constant's new value, low and high, to three digits.

    Raises:
        KeyError: the table has no such constant.
    """
    for name, numbers in values.items():
        for key, number in zip(("value", "low", "high"), numbers, strict=True):
            pattern = rf"(?m)(^\[{name}\]$(?:\n(?!\[).*)*?\n{key} = ).*$"
            text, found = re.subn(pattern, rf"\g<1>{float(f'{number:.3g}')!r}", text)
            if not found:
                raise KeyError(f"{name} has no {key} in the table of constants")
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit and print; write with `--write`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--write",
        action="store_true",
        help=f"put the fitted values into {CONSTANTS.name}, the intervals into {INTERVALS.name}",
    )
    options = parser.parse_args(arguments)
    console = Console(width=170)
    outcomes = list(predict_rows(used_rows()))
    runs = runs_of(outcomes)
    whole = fit_training([run for run in runs if run.fitted])
    by_source = left_out_fits(runs, _source)
    left_out = left_out_errors(runs, by_source, _source)
    console.print(constants_table(whole, by_source))
    console.print(errors_table("Fitted to all sources", runs, whole.errors(runs), _source))
    console.print(errors_table("Source left out", runs, left_out, _source))
    by_document = left_out_errors(runs, left_out_fits(runs, document), document)
    console.print(errors_table("Document left out", runs, by_document, document))
    by_framework = left_out_errors(runs, left_out_fits(runs, _framework), _framework)
    console.print(errors_table("Framework left out", runs, by_framework, _framework))
    rows = residuals(runs, by_document)
    for level in LEVELS:
        console.print(f"{level:.0%} intervals cover {left_out_coverage(rows, level):.1%} of the left-out rows")
    table = intervals_toml([*rows, *adapter_residuals(list(predict_rows(adapter_rows())))], memory_residuals(outcomes))
    console.print(table, markup=False)
    if options.write:
        bounds = intervals(whole, by_source)
        values = {name: (whole.values[name], *bounds[name]) for name in bounds}
        CONSTANTS.write_text(written(CONSTANTS.read_text(encoding="utf-8"), values), encoding="utf-8")
        INTERVALS.write_text(table, encoding="utf-8")
        console.print(f"wrote {CONSTANTS} and {INTERVALS}")


def _source(run: Run) -> str:
    return run.measured.source


def _framework(run: Run) -> str:
    return run.measured.framework


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()
