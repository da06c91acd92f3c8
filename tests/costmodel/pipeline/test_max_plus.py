"""Max-plus products and powers."""

from copy import copy

import numpy as np
import pytest

from shardwright.base.arrays import FloatArray
from shardwright.costmodel.pipeline import max_plus
from shardwright.costmodel.pipeline.max_plus import product, repeat


def with_gaps(shape: tuple[int, ...]) -> FloatArray:
    """Random entries of which a third are -inf, the zero of the algebra."""
    generator = np.random.default_rng(8)
    return np.where(generator.uniform(size=shape) < 1 / 3, -np.inf, generator.uniform(-5, 5, shape))


@pytest.mark.parametrize("broadcast_elements", [0, 1 << 18])
def test_a_product_is_the_longest_way_through_any_middle(
    broadcast_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ways of taking it: all middles at once, and one after the other where that would take too much memory."""
    monkeypatch.setattr(max_plus, "_BROADCAST_ELEMENTS", broadcast_elements)
    both = with_gaps((2, 3, 4, 4))
    left, right = both[0], both[1]
    expected = [
        [[max(left[plan, i, j] + right[plan, j, k] for j in range(4)) for k in range(4)] for i in range(4)]
        for plan in range(3)
    ]
    assert product(left, right).tolist() == expected


class Counted:
    """The map of matrices [plans, width, width], which counts its steps."""

    def __init__(self, matrix: FloatArray) -> None:
        self.matrix, self.called = matrix, [0]

    @property
    def steps(self) -> int:
        """Of this map and of those that it became among fewer plans."""
        return self.called[0]

    def round(self, state: FloatArray) -> FloatArray:
        self.called[0] += 1
        return product(state[..., None, :], self.matrix)[..., 0, :]

    def widened(self) -> "Wide":
        return Wide(self.matrix)

    def among(self, plans: FloatArray) -> "Counted":
        rest = copy(self)
        rest.matrix = self.matrix[plans]
        return rest


class Wide(Counted):
    def round(self, state: FloatArray) -> FloatArray:
        return product(state, self.matrix)


def one_by_one(matrix: FloatArray, state: FloatArray, count: int) -> FloatArray:
    for _ in range(count):
        state = product(state[..., None, :], matrix)[..., 0, :]
    return state


@pytest.mark.parametrize("call_elements", [0, 10**12])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 64, 100])
def test_squaring_arrives_where_stepping_arrives(
    call_elements: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(max_plus, "_CALL_ELEMENTS", call_elements)
    matrix = with_gaps((5, 4, 4))
    matrix[..., 0] = 1.0  # every state reaches one that goes on
    state = np.random.default_rng(9).uniform(0, 1, (5, 4))
    rounds = Counted(matrix)
    result = repeat(rounds, state, count, calls=3)
    np.testing.assert_allclose(result, one_by_one(matrix, state, count), rtol=1e-13)
    assert rounds.steps in (0, count)
    if call_elements and count == 100:
        assert rounds.steps == 0, "a hundred calls are more than the few of squaring"


class TestSteadyPlans:
    """A plan whose steps add a constant needs no further ones."""

    def run(self, matrix: FloatArray, count: int, monkeypatch: pytest.MonkeyPatch) -> int:
        """Check the end, and return the steps that were taken of at least one plan."""
        monkeypatch.setattr(max_plus, "_CALL_ELEMENTS", -1_000_000)  # never square
        state = np.random.default_rng(3).uniform(0, 1, matrix.shape[:-1])
        rounds = Counted(matrix)
        np.testing.assert_allclose(repeat(rounds, state, count, calls=1), one_by_one(matrix, state, count), rtol=1e-12)
        return rounds.steps

    def test_all_plans_are_steady_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        slow_first = np.where(np.eye(4, dtype=bool), np.array([9.0, 1.0, 2.0, 3.0]), -4.0)
        assert self.run(np.stack([slow_first] * 3), 1000, monkeypatch) == 16

    def test_one_plan_goes_on_while_the_others_are_steady(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two cycles of nearly equal length: the longer one rules only after more than a hundred steps."""
        slow_first = np.where(np.eye(4, dtype=bool), np.array([9.0, 1.0, 2.0, 3.0]), -4.0)
        near_tie = np.where(np.eye(4, dtype=bool), np.array([9.0, 9.1, 2.0, 3.0]), -4.0)
        assert 16 < self.run(np.stack([slow_first, near_tie, slow_first]), 1000, monkeypatch) < 1000

    def test_a_plan_that_turns_between_states_is_stepped_to_the_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        turning = np.array([[-np.inf, 1.0], [5.0, -np.inf]])
        assert self.run(np.stack([turning] * 2), 101, monkeypatch) == 101
