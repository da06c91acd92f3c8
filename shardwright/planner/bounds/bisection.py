"""Bisection of many bounds at once."""

from collections.abc import Callable

import numpy as np

from shardwright.base import Array

_MOST_HALVINGS = 18
_CLOSE = 1e-5


def least_that_holds(hold: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """(E,): the least seconds between `low` and `high` (E,) for which `hold` (E,) is true, from below, within 1e-5 of them.

    `hold` is true for all seconds above one for which it is true. `high` stands where `low` equals it, and where `high` is the least.
    """
    for _ in range(_MOST_HALVINGS):
        if not (high - low > _CLOSE * high).any():
            break
        middle = (low + high) / 2
        holds = hold(middle)
        high, low = np.where(holds, middle, high), np.where(holds, low, middle)
    return low
