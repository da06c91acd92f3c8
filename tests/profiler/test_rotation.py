import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shardwright.profiler.rotation import Rotation, rotated, rotated_bytes, sets


def test_works_take_turns() -> None:
    seen: list[str] = []
    rotation = Rotation([lambda: seen.append("a"), lambda: seen.append("b"), lambda: seen.append("c")])
    for _ in range(5):
        rotation()
    assert seen == ["a", "b", "c", "a", "b"]


def test_each_result_lies_in_memory_of_its_own_as_long_as_there_are_sets() -> None:
    rotation = Rotation([lambda: torch.ones(8)] * 3)
    results = [weakref.ref(rotation()) for _ in range(4)]
    assert [result() is not None for result in results] == [False, True, True, True]


@given(st.floats(min_value=1, max_value=1e12))
def test_small_operands_rotate_more(set_bytes: float) -> None:
    assert sets(set_bytes) >= sets(2 * set_bytes) >= 1


def test_operands_rotate_unless_one_set_leaves_no_cache_with_anything() -> None:
    assert sets(1e3) == 4
    assert sets(200 * 2**20) == 2
    assert sets(256 * 2**20) == 1


@pytest.mark.parametrize("set_bytes", [1e3, 4e7, 1e9])
def test_as_many_sets_are_made_as_memory_was_asked_for(set_bytes: float) -> None:
    made: list[int] = []

    def make() -> object:
        made.append(1)
        return object

    rotated(make, set_bytes)  # type: ignore[arg-type]  # counts only
    assert len(made) == sets(set_bytes)
    operands = rotated_bytes(set_bytes, result_bytes=0.0) - rotated_bytes(0.0, result_bytes=0.0)
    assert operands == pytest.approx(len(made) * set_bytes)
    results = rotated_bytes(set_bytes, result_bytes=7e6) - rotated_bytes(set_bytes, result_bytes=0.0)
    assert results == pytest.approx((len(made) + 1) * 7e6)
