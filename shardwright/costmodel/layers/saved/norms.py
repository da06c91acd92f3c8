"""What norms keep."""

from shardwright.base import Number
from shardwright.specs.model import Norm

from .families import LayerCode

_STATISTIC_BYTES = 4.0


def norm_bytes(
    norm: Norm, code: LayerCode, element: int, width: Number, rows: Number = 1, *, trained: bool = True
) -> Number:
    """Bytes that a norm keeps of one token: `rows` vectors with `width` elements in all, of `element` bytes each.

    A layer norm is one kernel. It keeps its input and a mean and a deviation in fp32. An RMS norm is written out: it keeps
    its input cast to fp32, the inverse root of the mean square, and what it multiplies by its weight. Without a weight that
    is `trained` the last is not kept. A layer norm that is written out takes the difference to the mean twice, and keeps both.
    """
    if norm.kind == "layernorm" and not norm.written_out:
        return element * width + 2 * _STATISTIC_BYTES * rows
    if norm.written_out:
        return (8 + 4 * trained) * width + _STATISTIC_BYTES * rows
    weighed = (4 if code.weighs_in_fp32 else element) if norm.weight and trained else 0
    return (4 + weighed) * width + _STATISTIC_BYTES * rows


def norm_weight_bytes(norm: Norm, code: LayerCode, element: int, width: int) -> float:
    """Bytes of the fp32 tensor that a norm computes from its weight of `element` bytes, whatever the number of tokens."""
    widened = (norm.written_out or code.widens_weight) and element < 4
    return 4.0 * width if widened or (norm.kind == "rmsnorm" and code.adds_one) else 0.0
