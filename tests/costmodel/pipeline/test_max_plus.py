"""Max-plus products and powers."""

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


@pytest.mark.parametrize("call_elements", [0, 10**12])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 64, 100])
def test_squaring_arrives_where_stepping_arrives(
    call_elements: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(max_plus, "_CALL_ELEMENTS", call_elements)
    matrix = with_gaps((5, 4, 4))
    matrix[..., 0] = 1.0  # every state reaches one that goes on
    narrow_calls = 0

    def narrow(state: FloatArray) -> FloatArray:
        nonlocal narrow_calls
        narrow_calls += 1
        return product(state[..., None, :], matrix)[..., 0, :]

    state = np.random.default_rng(9).uniform(0, 1, (5, 4))
    expected = state
    for _ in range(count):
        expected = narrow(expected)
    narrow_calls = 0
    result = repeat(narrow, lambda states: product(states, matrix), state, count, calls=3)
    np.testing.assert_allclose(result, expected, rtol=1e-13)
    assert narrow_calls in (0, count)
    if call_elements and count == 100:
        assert narrow_calls == 0, "a hundred calls are more than the few of squaring"
