"""What the fit prints and what it writes into the table of constants."""

import tomllib

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from shardwright.calibration.fit import CONSTANTS, constants_table, errors_table, interval_values, residuals, written
from shardwright.calibration.interval_factors import Residual
from shardwright.calibration.known_constants import KNOWN
from shardwright.calibration.training_fit import TrainingFit
from shardwright.costmodel.op_times.constants import constants_table as constants_by_name
from tests.calibration.made_up_runs import made_up_run, relabelled

TEXT = CONSTANTS.read_text(encoding="utf-8")
MADE_UP = """# A comment with value = 1.

[rate]
value = 0.5
unit = "share"
meaning = "value = high"
low = 0.4
high = 0.6
how = "fitted"

[wide_rate]
value = 2.0
low = 1.0
high = 3.0
"""


class TestWritten:
    def test_three_numbers_of_one_section(self) -> None:
        lines = written(MADE_UP, {"rate": (0.12345, 0.1, 1234.0)}).splitlines()
        before = MADE_UP.splitlines()
        changed = {line for line, old in zip(lines, before, strict=True) if line != old}
        assert changed == {"value = 0.123", "low = 0.1", "high = 1230.0"}
        assert lines[before.index("value = 0.5")] == "value = 0.123"

    def test_a_name_that_ends_like_another(self) -> None:
        after = tomllib.loads(written(MADE_UP, {"wide_rate": (7, 6, 8)}))
        assert after["rate"] == tomllib.loads(MADE_UP)["rate"]
        assert after["wide_rate"] == {"value": 7, "low": 6, "high": 8}

    def test_the_table_itself(self) -> None:
        """Every constant of the table can be written, the last as the first, and nothing else of it changes."""
        names = list(tomllib.loads(TEXT))
        after = tomllib.loads(written(TEXT, {name: (2e-6, 1e-6, 3e-6) for name in names}))
        before = tomllib.loads(TEXT)
        assert list(after) == names
        for name in names:
            assert after[name] == before[name] | {"value": 2e-6, "low": 1e-6, "high": 3e-6}

    def test_what_stands_there_already_changes_nothing(self) -> None:
        rows = {name: (row.value, row.low, row.high) for name, row in constants_by_name().items()}
        assert tomllib.loads(written(TEXT, rows)) == tomllib.loads(TEXT)

    def test_a_name_that_the_table_does_not_have(self) -> None:
        with pytest.raises(KeyError, match="unheard_of"):
            written(MADE_UP, {"unheard_of": (1, 1, 1)})


def rows(*factors: float, unsettled: bool) -> list[Residual]:
    return [Residual(f"source {index}", unsettled, factor) for index, factor in enumerate(factors)]


class TestIntervalValues:
    def test_each_kind_by_its_names(self) -> None:
        """Five sources stand at the quantiles 0.1 to 0.9."""
        values = interval_values([*rows(3, 1, 5, 2, 4, unsettled=False), *rows(10, 30, 20, 50, 40, unsettled=True)])
        assert values == pytest.approx(
            {
                "interval_80_low": 1, "interval_80_high": 5, "interval_95_low": 1, "interval_95_high": 5,
                "wide_interval_80_low": 10, "wide_interval_80_high": 50,
                "wide_interval_95_low": 10, "wide_interval_95_high": 50,
            }
        )  # fmt: skip
        assert set(values) == {name for name in constants_by_name() if "interval_" in name}

    def test_a_kind_without_rows_keeps_what_it_has(self) -> None:
        assert not any(name.startswith("wide") for name in interval_values(rows(1, 2, unsettled=False)))


def test_a_residual_is_measured_over_predicted() -> None:
    """An error of 0.25: predicted 25% too slow, measured over predicted 0.8; nanotron varies for reasons of its own."""
    runs = [made_up_run("a100-sxm-80gb:8", 1024), made_up_run("a100-sxm-80gb:8", 2048, stack="nanotron", zero=1)]
    assert residuals(runs, np.array([0.25, -0.5])) == [
        Residual("a100-sxm-80gb:8 1024", False, 0.8),
        Residual("a100-sxm-80gb:8 2048", True, 2.0),
    ]


def text(table: Table) -> list[str]:
    console = Console(width=250)
    with console.capture() as captured:
        console.print(table)
    return captured.get().splitlines()


def cells(lines: list[str], first: str) -> list[str]:
    (line,) = [line for line in lines if line.strip("│ ").startswith(f"{first} ")]
    return [cell.strip() for cell in line.strip("│ ").split("│")]


def test_errors_of_the_core_and_of_each_group() -> None:
    one = made_up_run("a100-sxm-80gb:8", 1024)
    runs = [one, one._replace(fitted=False), relabelled(one, framework="other", core=False)._replace(fitted=False)]
    lines = text(errors_table("made up", runs, np.array([0.1, -0.3, 0.9]), lambda run: run.measured.framework))
    assert cells(lines, "core")[1:4] == ["2", "20.0%", "20.0%"]
    assert cells(lines, "core, of what is fitted")[1:3] == ["1", "10.0%"]
    assert cells(lines, "other")[1:3] == ["1", "90.0%"]


def test_a_constant_stands_beside_what_was_known_of_it() -> None:
    known = np.log([known.value for known in KNOWN.values()])
    moves = {"a": TrainingFit(known + 0.1), "b": TrainingFit(known - 0.1)}
    name, before, value, low, high = cells(text(constants_table(TrainingFit(known), moves)), "busy_nic_share")
    assert (name, value) == ("busy_nic_share", "0.75")
    assert before.endswith(KNOWN["busy_nic_share"].source)
    assert (low, high) == ("0.66", "0.85")
