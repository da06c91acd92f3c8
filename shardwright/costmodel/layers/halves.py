"""The row of a layer with a shortcut around its experts: both halves in turn, and the experts' exchange beside the dense branch.

The experts read what the first half's feed-forward reads, and their result is added behind the second half. So the exchange has
the first half's feed-forward and all of the second half to run beside (LongCat-Flash, arXiv 2509.01322, section 2.2).
"""

from dataclasses import fields, replace

import numpy as np

from shardwright.base import Array
from shardwright.specs import POLICIES
from shardwright.specs.model import Block

from .core import Passes
from .frame import WorkFrame
from .layer import LayerWork
from .recompute import of_first_half
from .row import RowWork

_FULL = POLICIES.index("full")


def layer_row(frame: WorkFrame, block: Block, overlap: float) -> RowWork:
    """Return the work of one layer; `overlap` as in `LayerWork`."""
    if block.shortcut is None:
        return LayerWork(frame, block, overlap).row()
    one, two = block.halves
    first = LayerWork(replace(frame, training=of_first_half(frame.training)), one, overlap)
    second = LayerWork(frame, two, overlap)
    dense = Passes(*map(np.add, first.passes_without_experts, second.passes_without_experts))
    stream = frame.stream_bytes * frame.tokens * frame.model.hidden_size / frame.sequence_split
    stream = np.zeros_like(stream) if block.frozen else stream
    return _in_turn(replace(first, beside_dispatch=dense).row(), second.row(), stream)


def _in_turn(first: RowWork, second: RowWork, stream_bytes: Array) -> RowWork:
    """Return the sum of two halves that are one layer for recompute and for the pipeline.

    `stream_bytes` (N,): of the stream between layers. A full recompute keeps it once, and works in what both halves keep. While
    the second half runs backwards, the gradient of what the experts added waits beside it.
    """
    found = {field.name: getattr(first, field.name) + getattr(second, field.name) for field in fields(RowWork)}
    ones, twos = first.working_bytes_by_policy, second.working_bytes_by_policy + stream_bytes[:, None]
    working = np.maximum(ones, twos)
    least = POLICIES.index("none")
    working[:, _FULL] = ones[:, _FULL] + twos[:, _FULL] - np.minimum(ones[:, least], twos[:, least])
    kept = found["activation_bytes_by_policy"].copy()
    kept[:, _FULL] -= stream_bytes
    return RowWork(**{**found, "working_bytes_by_policy": working, "activation_bytes_by_policy": kept})
