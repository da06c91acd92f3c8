"""Activations on the host: what some layers of each rank keep goes there after their forward and comes back for their backward.

Transformer Engine (pytorch/cpu_offload.py, AsyncDoubleBufferGroupOffloadHandler, behind Megatron-Core's
--cpu-offloading-num-layers) spreads the copies evenly over the passes of all layers of a rank. So a layer's pass hides the
mean copy of a layer, and each layer keeps the share that stays. Two layers are in buffers, on their way.
"""

from dataclasses import dataclass

import numpy as np

from shardwright.base import Array
from shardwright.costmodel.op_times import OpTimes
from shardwright.specs import Candidates, TrainingSpec

_BUFFERED_LAYERS = 2


@dataclass(frozen=True)
class ActivationOffload:
    """The offload of `kept` (N, R, P) bytes of activations of each row, of a model with `layers` layers. The ends keep theirs."""

    training: TrainingSpec
    times: OpTimes
    candidates: Candidates
    layers: int
    kept: Array

    @property
    def staying(self) -> Array:
        """(N, R, P): bytes that stay on the device from a microbatch's forward to its backward."""
        return np.asarray(self.kept * (1 - self._share))

    @property
    def buffered(self) -> Array:
        """(N, R, P): bytes of the layers on their way, one out and one in."""
        return np.asarray(self.kept * np.minimum(_BUFFERED_LAYERS, self._share * self._rank_layers))

    @property
    def copy_seconds(self) -> Array:
        """(N, R, P): seconds of a row's copies one way; none for rows that copy nothing."""
        moved = self.kept * self._share
        return np.where(moved > 0, self.times.host_copy_seconds(moved), 0.0)

    @property
    def host_bytes(self) -> Array:
        """(N, R): bytes on the host of as many microbatches as 1F1B has in flight on its first rank, without recompute."""
        in_flight = np.minimum(self.candidates.pp, self.candidates.microbatches)[:, None]
        return np.asarray((self.kept * self._share)[..., 0] * in_flight)

    @property
    def _rank_layers(self) -> Array:
        """(N, 1, 1): layers of a rank, on average over the pipeline."""
        return np.asarray(self.layers / self.candidates.pp)[:, None, None]

    @property
    def _share(self) -> Array:
        """(N, R, 1): share of a row's layers whose activations go to the host."""
        share = np.minimum(1.0, self.training.activation_offload_layers / self._rank_layers)
        is_layer = np.array([1.0] * (self.kept.shape[1] - 2) + [0.0, 0.0])
        return np.asarray(share * is_layer[None, :, None])
