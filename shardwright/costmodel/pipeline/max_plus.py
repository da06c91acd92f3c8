"""Max-plus matrices: max replaces addition, + replaces multiplication, and -inf replaces zero.

Baccelli, Cohen, Olsder and Quadrat 1992, "Synchronization and Linearity", chapter 3. Leading axes run over plans.
"""

from typing import Protocol, Self

import numpy as np

from shardwright.base import Array, FloatArray

# Cost of one array operation without its elements, counted in elements: about 1 us against about 1 ns.
_CALL_ELEMENTS = 1000
_BROADCAST_ELEMENTS = 1 << 18
_STEPS_BETWEEN_CHECKS = 16
_ROUNDING = 1e-13  # relative, of the sums in one step


def product(left: FloatArray, right: FloatArray) -> FloatArray:
    """[..., i, k] = max_j (left[..., i, j] + right[..., j, k])."""
    width = right.shape[-2]
    if left.size * right.shape[-1] <= _BROADCAST_ELEMENTS:
        swapped = np.ascontiguousarray(np.swapaxes(right, -1, -2))
        return np.asarray((left[..., :, None, :] + swapped[..., None, :, :]).max(axis=-1))
    out = left[..., :, :1] + right[..., :1, :]
    for inner in range(1, width):
        np.maximum(out, left[..., :, inner : inner + 1] + right[..., inner : inner + 1, :], out=out)
    return out


class Rounds(Protocol):
    """A max-plus linear map of states [..., width], one for each plan."""

    def round(self, state: FloatArray) -> FloatArray:
        """Return the map of `state`."""

    def widened(self) -> Self:
        """Return the same map on states [..., several states, width], from which its matrix is read."""

    def among(self, plans: Array) -> Self:
        """Return the map of those plans (N,) that are true, where the leading axis runs over N plans."""


def repeat(rounds: Rounds, state: FloatArray, count: int, *, calls: int) -> FloatArray:
    """Apply a max-plus linear map `count` times, by squaring its matrix where that is less work than single steps.

    Args:
        rounds: the map.
        state: [..., width].
        calls: approximate number of array operations on the whole state in one application.
    """
    width = state.shape[-1]
    plans = state.size // width
    bits = count.bit_length()
    stepping = count * calls * (_CALL_ELEMENTS + plans * width)
    squaring = calls * (_CALL_ELEMENTS + plans * width**2) + 2 * bits * (_CALL_ELEMENTS + plans * width**3)
    if stepping <= squaring:
        return _stepped(rounds, state, count)
    identity = np.where(np.eye(width, dtype=bool), 0.0, -np.inf)
    matrix = rounds.widened().round(np.broadcast_to(identity, (*state.shape[:-1], width, width)))
    while count:
        if count & 1:
            state = product(state[..., None, :], matrix)[..., 0, :]
        count >>= 1
        if count:
            matrix = product(matrix, matrix)
    return state


def _stepped(rounds: Rounds, state: FloatArray, count: int) -> FloatArray:
    """Apply the map step by step, for each plan until a step adds the same to its whole state. Every later one adds that again,
    because the map of a state plus a constant is the map of the state plus the constant."""
    while count:
        for _ in range(min(count, _STEPS_BETWEEN_CHECKS) - 1):
            state, count = rounds.round(state), count - 1
        before, state, count = state, rounds.round(state), count - 1
        with np.errstate(invalid="ignore"):  # -inf, which never ends, less -inf
            added = state - before
        steady = np.ptp(added, axis=-1) <= _ROUNDING * np.abs(state).max(axis=-1)
        if steady.all():
            return np.asarray(state + count * added)
        if state.ndim == 2 and 2 * steady.sum() >= len(state):
            ends = state + count * added
            ends[~steady] = _stepped(rounds.among(~steady), state[~steady], count)
            return ends
    return state
