"""The scales of 8-bit operands, on which ranks that hold parts of an operand agree before they cast it.

Each linear has an all-reduce of two fp32 numbers in its forward, the largest magnitudes of input and weight, and of one in its backward, of
the output's gradient. What runs again agrees again (executor/low_precision/scaled.py).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from shardwright.base import Array
from shardwright.costmodel.op_times import OpTimes
from shardwright.specs import BYTES_PER_ELEMENT, Candidates, NodeGroup, RankGroup

from .counted import LayerSeconds

_NUMBER = float(BYTES_PER_ELEMENT["fp32"])


class ScaleAgreements(NamedTuple):
    """Of a layer with so many linears in `attention` and in the `feed_forward`, which runs in so many `tiles`. `share`: of the layers that
    are in 8 bits."""

    times: OpTimes
    candidates: Candidates
    attention: int
    feed_forward: int
    tiles: int
    share: float

    def seconds(self, group: Callable[[Candidates, NodeGroup], RankGroup]) -> LayerSeconds:
        """Return what the ranks of a group spend. Tiles have scales of their own, and run again in any backward."""
        linears = self.attention + self.feed_forward * self.tiles
        forward = linears * self._each(2 * _NUMBER, group)
        tiled = self.tiles > 1
        again = self.feed_forward_seconds(group) if tiled else 0.0
        last = (
            self.feed_forward_seconds(group) / self.tiles if tiled else 0.0
        )  # a full recompute stops before the last tile
        return LayerSeconds(forward, linears * self._each(_NUMBER, group) + again, forward - last)

    def feed_forward_seconds(self, group: Callable[[Candidates, NodeGroup], RankGroup]) -> Array:
        """Return the part of a forward that is the feed-forward's."""
        return self.feed_forward * self.tiles * self._each(2 * _NUMBER, group)

    def _each(self, size_bytes: float, group: Callable[[Candidates, NodeGroup], RankGroup]) -> Array:
        ranks = group(self.candidates, self.times.node)
        return self.share * np.asarray(self.times.collective_seconds("all_reduce", size_bytes, ranks))
