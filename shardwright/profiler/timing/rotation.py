"""Work that uses another set of operands each time, so that these come from memory as in training."""

import itertools
import math
from collections import deque
from collections.abc import Callable, Sequence

from .probe import Work

_MOST_SETS, _MOST_RESULTS = 4, 16
# twice the last-level cache of a common server; on a GPU the machine also flushes the second level
_ROTATED_BYTES = 64 * 2**20
# one set of this size leaves nothing of itself in any cache
_LARGE_BYTES = 256 * 2**20
# memory of kernels beside their operands: cuBLAS' workspace, packed panels of a CPU's matmul
_WORKSPACE_BYTES = 64 * 2**20


class Rotation:
    """Calls each of `works` in turn.

    The last `kept` results stay alive. Each then has its own memory, as activations kept for a backward pass do.
    """

    def __init__(self, works: Sequence[Work], kept: int) -> None:
        self._works = itertools.cycle(works)
        self._results: deque[object] = deque(maxlen=kept)

    def __call__(self) -> object:
        result = next(self._works)()
        self._results.append(result)
        return result


def sets(set_bytes: float) -> int:
    """Return the number of sets of operands, of `set_bytes` each, to rotate over."""
    if set_bytes >= _LARGE_BYTES:
        return 1
    return max(2, min(_MOST_SETS, math.ceil(_ROTATED_BYTES / max(set_bytes, 1.0))))


def results(result_bytes: float) -> int:
    """Return the number of results, of `result_bytes` each, that stay alive."""
    return max(1, min(_MOST_RESULTS, math.ceil(_ROTATED_BYTES / max(result_bytes, 1.0))))


def rotated(make: Callable[[], Work], *, set_bytes: float, result_bytes: float) -> Rotation:
    """Return work over as many sets as their size requires. Each call of `make` makes the operands of one."""
    return Rotation([make() for _ in range(sets(set_bytes))], results(result_bytes))


def rotated_bytes(*, set_bytes: float, result_bytes: float, extra_bytes: float = 0.0) -> float:
    """Return the memory of rotation: the sets, the live results and the next one, and `extra_bytes` once."""
    operand_bytes = sets(set_bytes) * set_bytes
    return operand_bytes + (results(result_bytes) + 1) * result_bytes + extra_bytes + _WORKSPACE_BYTES
