"""Activations on the host: what layers keep goes there after their forward and comes back for their backward.

Two ways to choose what goes:

- Some layers of each rank (`TrainingSpec.activation_offload_layers`). Transformer Engine (pytorch/cpu_offload.py,
  AsyncDoubleBufferGroupOffloadHandler, behind Megatron-Core's --cpu-offloading-num-layers) spreads the copies evenly over the
  passes of all layers of a rank. So a layer's pass hides the mean copy of a layer, and each layer keeps the share that stays.
- A share of the tokens of a layer (`LayerRun.activation_offload`; Zhao et al. 2024, MEMO, arXiv 2407.12117). The copies of a layer
  run beside its own passes.

Two layers are in buffers, on their way.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shardwright.base import Array
from shardwright.costmodel.op_times import OpTimes
from shardwright.specs import Candidates, Strategy, TrainingSpec

_BUFFERED_LAYERS = 2


@dataclass(frozen=True)
class ActivationOffload:
    """The offload of `kept` (N, R, P) bytes of activations of each row under `strategies` (P), of a model with `layers` layers.

    The ends keep theirs.
    """

    training: TrainingSpec
    times: OpTimes
    candidates: Candidates
    layers: int
    strategies: Sequence[Strategy]
    kept: Array

    @property
    def staying(self) -> Array:
        """(N, R, P): bytes that stay on the device from a microbatch's forward to its backward."""
        return np.asarray(self.kept * (1 - self._share))

    @property
    def buffered(self) -> Array:
        """(N, R, P): bytes of the layers on their way, one out and one in."""
        of_layers = np.minimum(_BUFFERED_LAYERS, self._share_of_layers * self._rank_layers)
        return np.asarray(
            self.kept * (of_layers + self._share_of_tokens * np.minimum(_BUFFERED_LAYERS, self._rank_layers))
        )

    @property
    def copy_seconds(self) -> Array:
        """(N, R, P): seconds of a row's copies one way; none for rows that copy nothing."""
        moved = self.kept * self._share
        return np.where(moved > 0, self.times.host_copy_seconds(moved), 0.0)

    @property
    def host_bytes(self) -> Array:
        """(N, R): bytes on the host of the layers that go there whole, for as many microbatches as 1F1B has in flight on its first
        rank, without recompute."""
        in_flight = np.minimum(self.candidates.pp, self.candidates.microbatches)[:, None]
        return np.asarray((self.kept * self._share_of_layers)[..., 0] * in_flight)

    @property
    def host_bytes_each(self) -> Array:
        """(N, R, P): bytes on the host of the tokens that go there, for each microbatch in flight."""
        return np.asarray(self.kept * self._share_of_tokens)

    @property
    def _rank_layers(self) -> Array:
        """(N, 1, 1): layers of a rank, on average over the pipeline."""
        return np.asarray(self.layers / self.candidates.pp)[:, None, None]

    @property
    def _share(self) -> Array:
        """(N, R, P): share of a row's activations that goes to the host. The checks allow one of the two ways."""
        return np.asarray(self._share_of_layers + self._share_of_tokens)

    @property
    def _share_of_layers(self) -> Array:
        """(N, R, 1): share of a row's layers whose activations go to the host."""
        share = np.minimum(1.0, self.training.activation_offload_layers / self._rank_layers)
        return np.asarray(share * self._is_layer)

    @property
    def _share_of_tokens(self) -> Array:
        """(1, R, P): share of the tokens whose activations go to the host."""
        return np.asarray(self._is_layer * np.array([float(one.activation_offload) for one in self.strategies]))

    @property
    def _is_layer(self) -> Array:
        """(1, R, 1): 1 for layers, 0 for the ends."""
        return np.array([1.0] * (self.kept.shape[1] - 2) + [0.0, 0.0])[None, :, None]
