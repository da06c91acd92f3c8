"""What was known of the constants before any run, against the constants that there are."""

from dataclasses import fields

import numpy as np
import pytest

from shardwright.calibration.known_constants import KNOWN
from shardwright.costmodel.op_times.constants import Constants, constants_table


def test_each_is_a_constant_of_the_cost_model() -> None:
    assert set(KNOWN) <= {field.name for field in fields(Constants)}


@pytest.mark.parametrize("name", KNOWN)
def test_something_is_known_of_each(name: str) -> None:
    known = KNOWN[name]
    assert known.value > 0
    assert 0 < known.spread <= 1
    assert known.source


@pytest.mark.parametrize("name", KNOWN)
def test_what_runs_told_does_not_contradict_what_was_known(name: str) -> None:
    known = KNOWN[name]
    assert abs(np.log(constants_table()[name].value / known.value)) < 3 * known.spread
