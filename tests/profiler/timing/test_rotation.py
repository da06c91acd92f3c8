import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shardwright.profiler.timing.probe import Work
from shardwright.profiler.timing.rotation import Rotation, results, rotated, rotated_bytes, sets


def test_works_take_turns() -> None:
    seen: list[str] = []
    rotation = Rotation([lambda: seen.append("a"), lambda: seen.append("b"), lambda: seen.append("c")], 1)
    for _ in range(5):
        rotation()
    assert seen == ["a", "b", "c", "a", "b"]


def test_the_last_results_stay_alive_so_that_the_next_lies_in_memory_of_its_own() -> None:
    rotation = Rotation([lambda: torch.ones(8)], 3)
    made = [weakref.ref(rotation()) for _ in range(4)]
    assert [result() is not None for result in made] == [False, True, True, True]


def test_results_are_kept_until_they_fill_the_caches() -> None:
    assert [results(size) for size in (1e3, 8 * 2**20, 40 * 2**20, 1e9)] == [16, 8, 2, 1]


@given(st.floats(min_value=1, max_value=1e12))
def test_small_operands_rotate_more(set_bytes: float) -> None:
    assert sets(set_bytes) >= sets(2 * set_bytes) >= 1


def test_operands_rotate_unless_one_set_leaves_no_cache_with_anything() -> None:
    assert sets(1e3) == 4
    assert sets(200 * 2**20) == 2
    assert sets(256 * 2**20) == 1


@pytest.mark.parametrize("size_bytes", [1e3, 4e7, 1e9])
def test_as_much_is_made_and_kept_as_memory_was_asked_for(size_bytes: float) -> None:
    made: list[int] = []

    def make() -> Work:
        made.append(1)
        return lambda: torch.ones(8)

    rotation = rotated(make, set_bytes=size_bytes, result_bytes=size_bytes)
    assert len(made) == sets(size_bytes)
    alive = [weakref.ref(rotation()) for _ in range(40)]
    kept = sum(result() is not None for result in alive)
    nothing = rotated_bytes(set_bytes=0.0, result_bytes=0.0)
    assert rotated_bytes(set_bytes=size_bytes, result_bytes=0.0) - nothing == pytest.approx(len(made) * size_bytes)
    # and the next one, before the oldest goes
    assert rotated_bytes(set_bytes=0.0, result_bytes=size_bytes) - nothing == pytest.approx((kept + 1) * size_bytes)
