"""What averaging costs a rank whose tokens travel to experts as means of what hashes alike, beside memory traffic (`dispatched_elements`).

Nie et al. 2024, LSH-MoE, arXiv 2411.08446, section 3.2; executor/experts/centroids.py. Hashes have no gradient, so a backward pass hashes
only where its layer runs again.
"""

from dataclasses import dataclass

import numpy as np

from shardwright.base import Array
from shardwright.costmodel.layers.frame import WorkFrame
from shardwright.specs.model import Block, FeedForward

from .passes import Passes

HASHES, HASH_COORDINATES = 6, 8
"""Hash functions by the paper's ablation (section 4.5), and the coordinates of each one's cross-polytope, which are our own."""
AVERAGING_KERNELS = 41, 9
"""Launches of a forward and a backward, counted on torch (tests/parity/test_centroids.py)."""


@dataclass(frozen=True)
class Averaging:
    """Of the experts of `block`, for every candidate."""

    frame: WorkFrame
    block: Block

    @property
    def hash_seconds(self) -> Array:
        """(N,): seconds of projecting a rank's tokens in one forward."""
        tokens, hidden = self.frame.experts.own_tokens, self.frame.model.hidden_size
        if self._nowhere:
            return np.zeros(len(self.frame.tokens))
        projected = self.frame.times.matmul_seconds(tokens, hidden, HASHES * HASH_COORDINATES)
        return np.where(self._averages, projected, 0.0)

    @property
    def kernels(self) -> Passes:
        """(N,) each: launches."""
        return Passes(*(count * self._averages for count in AVERAGING_KERNELS))

    @property
    def _nowhere(self) -> bool:
        return isinstance(self.block.ffn, FeedForward) or self.frame.training.tokens_per_centroid == 1

    @property
    def _averages(self) -> Array:
        """(N,): 1 where means travel, else 0."""
        if self._nowhere:
            return np.zeros(len(self.frame.tokens))
        return np.where(np.asarray(self.frame.experts.per_centroid) > 1, 1.0, 0.0)
