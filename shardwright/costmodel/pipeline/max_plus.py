"""Max-plus matrices: max replaces addition, + replaces multiplication, and -inf replaces zero.

Baccelli, Cohen, Olsder and Quadrat 1992, "Synchronization and Linearity", chapter 3. Leading axes run over plans.
"""

from collections.abc import Callable

import numpy as np

from shardwright.base import FloatArray

# Cost of one array operation without its elements, counted in elements: about 1 us against about 1 ns.
_CALL_ELEMENTS = 1000
_BROADCAST_ELEMENTS = 1 << 18


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


def repeat(
    linear: Callable[[FloatArray], FloatArray],
    wide: Callable[[FloatArray], FloatArray],
    state: FloatArray,
    count: int,
    *,
    calls: int,
) -> FloatArray:
    """Apply a max-plus linear map `count` times, by squaring its matrix where that is less work than single steps.

    Args:
        linear: the map, on states [..., width].
        wide: the same map on [..., several states, width], from which its matrix is read.
        state: [..., width].
        calls: approximate number of array operations on the whole state in one application.
    """
    width = state.shape[-1]
    plans = state.size // width
    bits = count.bit_length()
    stepping = count * calls * (_CALL_ELEMENTS + plans * width)
    squaring = calls * (_CALL_ELEMENTS + plans * width**2) + 2 * bits * (_CALL_ELEMENTS + plans * width**3)
    if stepping <= squaring:
        for _ in range(count):
            state = linear(state)
        return state
    identity = np.where(np.eye(width, dtype=bool), 0.0, -np.inf)
    matrix = wide(np.broadcast_to(identity, (*state.shape[:-1], width, width)))
    while count:
        if count & 1:
            state = product(state[..., None, :], matrix)[..., 0, :]
        count >>= 1
        if count:
            matrix = product(matrix, matrix)
    return state
