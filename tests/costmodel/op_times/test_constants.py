"""The table of constants: complete, plausible, few; and how an array of candidates broadcasts."""

from dataclasses import fields

import numpy as np
import pytest

from shardwright.calibration.collective_constants import KNOWN as KNOWN_OF_COLLECTIVES
from shardwright.calibration.known_constants import KNOWN
from shardwright.costmodel.op_times.constants import CALIBRATED, Constants, constants_table, over

TABLE = constants_table()
NAMES = [field.name for field in fields(Constants)]
MOST_FITTED = 25
SHARES = ("share of best", "share of peak", "share")


def test_the_table_has_every_constant_and_no_other() -> None:
    assert sorted(TABLE) == sorted(NAMES)
    assert vars(CALIBRATED) == {name: TABLE[name].value for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_a_value_lies_within_its_interval(name: str) -> None:
    row = TABLE[name]
    assert row.low <= row.value <= row.high


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("_fraction") or TABLE[name].unit in SHARES])
def test_no_share_exceeds_what_it_is_a_share_of(name: str) -> None:
    assert 0 <= TABLE[name].value <= 1


@pytest.mark.parametrize("name", NAMES)
def test_the_unit_is_that_of_the_name(name: str) -> None:
    for ending in ("seconds", "bytes"):
        assert name.endswith(f"_{ending}") <= (TABLE[name].unit == ending)


def test_few_constants_are_fitted() -> None:
    fitted = [name for name, row in TABLE.items() if row.how == "fitted"]
    assert len(fitted) <= MOST_FITTED


def test_what_a_fit_is_named_for_it_does_fit() -> None:
    """And the other way round; what a program fits beside those are properties of the systems that it reads."""
    for program, known in (("fit", KNOWN), ("collectives_fit", KNOWN_OF_COLLECTIVES)):
        source = f"python -m shardwright.calibration.{program},"
        named = {name for name, row in TABLE.items() if row.source.startswith(source)}
        assert named == set(known) & set(NAMES)
        assert {TABLE[name].how for name in named} == {"fitted"}


class TestOver:
    def test_a_number_stays_as_it_is(self) -> None:
        assert over(0.5, np.ones((3, 2))) == 0.5

    def test_candidates_stay_on_the_first_axis(self) -> None:
        """(N,) over (N, R, P) varies with N alone, also where R is N."""
        constant = np.array([1.0, 2.0, 3.0])
        wide = np.asarray(over(constant, np.ones((3, 3, 3))))
        assert wide.shape == (3, 1, 1)
        np.testing.assert_array_equal((wide * np.ones((3, 3, 3)))[:, 2, 0], constant)

    @pytest.mark.parametrize("like", [np.float64(1), np.ones(3)], ids=["number", "vector"])
    def test_what_has_no_more_axes_needs_none(
        self, like: "np.float64 | np.ndarray[tuple[int], np.dtype[np.float64]]"
    ) -> None:
        constant = np.array([1.0, 2.0, 3.0])
        assert over(constant, like) is constant
