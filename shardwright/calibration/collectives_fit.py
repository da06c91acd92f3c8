"""`python -m shardwright.calibration.collectives_fit`: fit the constants of collectives to published measurements, and print
the errors.

Errors are those of predicted seconds. "Left out" predicts with constants fitted to all other hardware, and no latency factor.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from shardwright.base import FloatArray
from shardwright.base import units as readable

from .collective_constants import EFA, HOST_CALL, KNOWN, Fit, fit, intervals, left_out_fits
from .measured_collective import MeasuredCollective, published_collectives, reached_fractions

_LARGE_BYTES = 2**20


def errors(fitted: Fit, rows: Sequence[MeasuredCollective], *, own_latency: bool = False) -> FloatArray:
    """Predicted / measured seconds - 1 of each row, shape (R,)."""
    measured = np.array([row.seconds for row in rows])
    return np.asarray(fitted.predict(rows, own_latency=own_latency) / measured - 1)


def constants_table(whole: Fit, left_out: Mapping[str, Fit], rows: Sequence[MeasuredCollective]) -> Table:
    """Each constant with its interval, its prior, and for rates the best measured."""
    table = Table("constant", "known before", title="Constants", title_justify="left")
    for column in ("fitted", "80% low", "80% high", "best measured", "fitted / best"):
        table.add_column(column, justify="right")
    best = {name: max(reached) for name, reached in reached_fractions(rows).items()}
    for name, (low, high) in intervals(whole, left_out).items():
        shown = readable.seconds if name.endswith("_seconds") else readable.number
        value, measured = whole.values[name], best.get(name)
        compared = ("", "") if measured is None else (readable.number(measured), f"{value / measured:.2f}")
        known = f"{shown(KNOWN[name].value)}: {KNOWN[name].source}"
        table.add_row(name, known, shown(value), shown(low), shown(high), *compared)
    return table


def errors_table(whole: Fit, left_out: Mapping[str, Fit], rows: Sequence[MeasuredCollective]) -> Table:
    """Errors by log: of the fit to everything, and of the fit without the log's hardware, for all sizes and for large ones."""
    table = Table("log", title="Error of predicted seconds", title_justify="left")
    for column in (
        "rows",
        "fitted: median",
        "p90",
        "left out: median",
        "p90",
        "signed median",
        "from 1 MiB: median",
        "p90",
    ):
        table.add_column(column, justify="right")
    held_out: list[FloatArray] = []
    for log in sorted({row.log for row in rows}):
        of_log = [row for row in rows if row.log == log]
        missing = errors(left_out[of_log[0].system.hardware], of_log)
        held_out.append(missing)
        table.add_row(log, *_error_cells(errors(whole, of_log, own_latency=True), missing, _sizes(of_log)))
    by_log = sorted(rows, key=lambda row: row.log)
    table.add_section()
    cells = _error_cells(errors(whole, by_log, own_latency=True), np.concatenate(held_out), _sizes(by_log))
    table.add_row("all", *cells)
    return table


def _error_cells(fitted: FloatArray, missing: FloatArray, sizes_bytes: FloatArray) -> list[str]:
    large = missing[sizes_bytes >= _LARGE_BYTES]
    cells = [_percent(np.median, np.abs(fitted)), _percent(_p90, np.abs(fitted))]
    cells += [_percent(np.median, np.abs(missing)), _percent(_p90, np.abs(missing)), _percent(np.median, missing)]
    return [str(len(missing)), *cells, _percent(np.median, np.abs(large)), _percent(_p90, np.abs(large))]


def _sizes(rows: Sequence[MeasuredCollective]) -> FloatArray:
    return np.array([row.size_bytes for row in rows])


def _p90(values: FloatArray) -> float:
    return float(np.quantile(values, 0.9))


def _percent(summary: Callable[[FloatArray], float], values: FloatArray) -> str:
    return f"{100 * summary(values):.1f}%" if len(values) else ""


def _left_out_text(left_out: Counter[str]) -> str:
    return "; ".join(f"{count} {reason}" for reason, count in left_out.most_common())


def main() -> None:
    """Print the constants, their intervals and the errors."""
    rows, not_predicted = published_collectives()
    whole, left_out = fit(rows), left_out_fits(rows)
    console = Console(width=170)
    console.print(constants_table(whole, left_out, rows))
    console.print(f"{EFA} goes to catalog/links.toml; {HOST_CALL} belongs to the measurements, not to the model.\n")
    console.print(errors_table(whole, left_out, rows))
    factors = ", ".join(f"{log} {factor:.2f}" for log, factor in whole.latency_factors.items())
    console.print(f"Latency factors of the logs: {factors}.")
    console.print(f"{len(rows)} rows; not predicted: {_left_out_text(not_predicted)}.")


if __name__ == "__main__":
    main()
