"""The cheapest way through the phases, against every way."""

from itertools import pairwise, product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shardwright.planner.phases import shortest


@given(st.lists(st.integers(1, 3), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_no_other_way_is_cheaper(counts: list[int], drawn: "np.random.Generator") -> None:
    def seconds(*shape: int) -> np.ndarray:
        return np.array([drawn.choice([0, 1, 2, 5, 20, np.inf]) for _ in range(int(np.prod(shape)))]).reshape(shape)

    phases = [seconds(count) for count in counts]
    phases[0][0] = 1.0
    changes = [seconds(*pair) for pair in pairwise(counts)]

    def total(way: tuple[int, ...]) -> float:
        own = sum(part[index] for part, index in zip(phases, way, strict=True))
        return float(own + sum(change[pair] for change, pair in zip(changes, pairwise(way), strict=True)))

    found = shortest(phases, changes)
    least = min(map(total, product(*map(range, counts))))
    assert found.seconds == least
    assert total(found.chosen) == least


def test_a_phase_keeps_a_slower_plan_where_switching_takes_longer() -> None:
    """Phase 2 saves 3 s with plan B, and a switch takes 2 s each way: A, A, A takes 1 + 4 + 1 and A, B, A 1 + 2 + 1 + 2 + 1."""
    phases = [np.array([1.0, 9.0]), np.array([4.0, 1.0]), np.array([1.0, 9.0])]
    change = np.array([[0.0, 2.0], [2.0, 0.0]])
    assert shortest(phases, [change, change]) == ((0, 0, 0), 6.0)
    assert shortest([phases[0], phases[1]], [change]) == ((0, 1), 4.0)
