"""The constants of collectives are those that the published measurements give, and predict systems that they were not fitted to."""

from dataclasses import replace

import numpy as np
import pytest

from shardwright.calibration.collective_constants import EFA, HOST_CALL, Fit, fit, intervals
from shardwright.calibration.collectives_fit import errors
from shardwright.calibration.measured_collective import published_collectives, reached_fractions
from shardwright.catalog import devices as catalog
from shardwright.costmodel.op_times.constants import constants_table

ROWS = published_collectives()[0]


@pytest.fixture(scope="module")
def whole() -> Fit:
    return fit(ROWS)


def test_the_table_of_constants_has_what_the_fit_gives(whole: Fit) -> None:
    for name, value in whole.values.items():
        if name not in (EFA, HOST_CALL):
            assert constants_table()[name].value == pytest.approx(value, rel=0.01), name
    assert catalog.link("efa-400g").latency_seconds == pytest.approx(whole.values[EFA], rel=0.01)
    assert catalog.link("efa-100g").latency_seconds == pytest.approx(whole.values[EFA], rel=0.01)


def test_every_rate_is_below_the_data_sheet_and_near_the_best_measured() -> None:
    for name, reached in reached_fractions(ROWS).items():
        assert 0.85 * max(reached) < constants_table()[name].value < 1, name


def test_what_it_was_fitted_to_comes_back(whole: Fit) -> None:
    found = np.abs(errors(whole, ROWS, own_latency=True))
    assert np.median(found) < 0.065
    assert np.quantile(found, 0.9) < 0.22


@pytest.mark.parametrize(
    ("hardware", "median", "p90"),
    [("h200", 0.09, 0.15), ("p4de", 0.16, 0.26), ("a100", 0.21, 0.43), ("mi300x", 0.08, 0.10)],
)
def test_a_system_left_out_is_predicted(hardware: str, median: float, p90: float) -> None:
    others = fit([row for row in ROWS if row.system.hardware != hardware])
    left_out = [row for row in ROWS if row.system.hardware == hardware]
    found = np.abs(errors(others, left_out))
    assert np.median(found) < median
    assert np.quantile(found, 0.9) < p90


def test_constants_that_made_the_rows_are_found_again() -> None:
    """Rows made up from other constants than those the fit starts from."""
    made = Fit(
        values={
            "nvlink_fraction": 0.7,
            "nic_fraction": 0.9,
            "in_switch_fraction": 0.6,
            "collective_seconds": 10e-6,
            "low_latency_step": 0.3,
            "low_latency_rate": 0.3,
            "chunk_fill": 0.9,
            EFA: 80e-6,
            HOST_CALL: 30e-6,
        },
        latency_factors={},
    )
    rows = [replace(row, seconds=float(made.predict([row])[0])) for row in ROWS]
    found = fit(rows).values
    for name, value in made.values.items():
        assert found[name] == pytest.approx(value, rel=0.25), name
    for name in ("nvlink_fraction", "nic_fraction", "in_switch_fraction"):
        assert found[name] == pytest.approx(made.values[name], rel=0.02)


def test_the_jackknife_by_hand(whole: Fit) -> None:
    """Two fits, ln 2 apart: an error of sqrt(1/2 x 2 x (ln 2 / 2)^2)."""
    values = dict.fromkeys(whole.values, 2.0)
    left_out = {"one": Fit(dict.fromkeys(values, 1.0), {}), "other": Fit(values, {})}
    low, high = intervals(Fit(values, {}), left_out)["chunk_fill"]
    assert np.log(high / 2) == pytest.approx(1.2816 * np.log(2) / 2, rel=1e-4)
    assert low * high == pytest.approx(4)
