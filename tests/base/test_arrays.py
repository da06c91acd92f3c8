"""The distinct rows, against sets of tuples."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shardwright.base.arrays import distinct

NUMBERS = st.integers(0, 3) | st.integers(0, 2**31)


@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=30))
def test_each_row_is_the_one_it_points_to_and_no_two_are_equal(rows: list[tuple[int, int, int]]) -> None:
    found = distinct(list(np.array(rows, dtype=np.int64).T))
    firsts = [rows[index] for index in found.first]
    assert [firsts[place] for place in found.of_row] == rows
    assert len(firsts) == len(set(rows))


def test_more_combinations_than_a_table_has_codes() -> None:
    """2^60 possible codes, 1000 rows twice."""
    once = np.random.default_rng(0).integers(0, 2**20, (3, 1000))
    found = distinct(list(np.concatenate([once, once], axis=1)))
    assert (found.of_row[:1000] == found.of_row[1000:]).all()
    assert len(found.first) == len(np.unique(once, axis=1).T)
