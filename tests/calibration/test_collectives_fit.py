"""The tables that the fit of collectives prints."""

from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from shardwright.calibration.collective_constants import KNOWN, Fit
from shardwright.calibration.collectives_fit import constants_table, errors, errors_table
from shardwright.calibration.measured_collective import published_collectives

ROWS = [row for row in published_collectives()[0] if row.system.hardware in ("h200", "p4de")]
KNOWN_ONLY = Fit({name: known.value for name, known in KNOWN.items()}, {})
LEFT_OUT = {"h200": KNOWN_ONLY, "p4de": KNOWN_ONLY}


def text(table: Table) -> str:
    console = Console(width=250)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_an_error_is_of_predicted_seconds() -> None:
    predicted = KNOWN_ONLY.predict(ROWS)
    twice_as_slow = [replace(row, seconds=2 * float(value)) for row, value in zip(ROWS, predicted, strict=True)]
    assert errors(KNOWN_ONLY, twice_as_slow) == pytest.approx(np.full(len(ROWS), -0.5))


def test_constants_stand_beside_what_was_known_and_measured() -> None:
    (line,) = [line for line in text(constants_table(KNOWN_ONLY, LEFT_OUT, ROWS)).splitlines() if "nvlink_f" in line]
    assert "0.80: NCCL counts" in line
    assert "0.82" in line
    assert f"{0.8 / 0.816:.2f}" in line


def test_errors_have_a_line_for_each_log_and_one_for_all() -> None:
    shown = text(errors_table(KNOWN_ONLY, LEFT_OUT, ROWS))
    for log in {row.log for row in ROWS}:
        assert log in shown
    (all_rows,) = [line for line in shown.splitlines() if " all " in line]
    assert f" {len(ROWS)} " in all_rows
