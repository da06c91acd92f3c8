"""The update once a step: clipping and the optimizer, on the device, by the host's cores, and to and from its drives."""

from dataclasses import dataclass

import numpy as np

from shardwright.base import Array
from shardwright.costmodel.op_times import CLIP_PASSES, FOREACH_UPDATE_PASSES, UPDATE_PASSES, OpTimes
from shardwright.specs import OPTIMIZER_STATES, Candidates, TrainingSpec


@dataclass(frozen=True)
class Update:
    """Clipping and update of `shard` (N, R) elements of each row on a rank."""

    training: TrainingSpec
    times: OpTimes
    candidates: Candidates
    shard: Array

    @property
    def seconds(self) -> Array:
        """(N, R): the host's cores update their share, the device the rest.

        With share f on the host and times d and h of the whole shard, a stack takes (1 - f) d + f h, or the longer of the two
        where it updates both at once (`Stack.updates_side_by_side`).
        """
        on_host, on_nvme = (
            column[:, None] for column in (self.candidates.offload_optimizer, self.candidates.offload_nvme)
        )
        shard = self.shard
        element = self.training.precision.parameter_bytes_per_element
        passes = FOREACH_UPDATE_PASSES if self.training.software.foreach_update else UPDATE_PASSES
        update = element * passes[self.training.optimizer] * shard
        clip = element * CLIP_PASSES * shard
        by_host = np.where(on_host > 0, self.times.host_update_seconds(on_host * shard, on_host * (update + clip)), 0.0)
        by_host = np.maximum(by_host, self._nvme_seconds(on_nvme * on_host * shard))
        left = 1 - on_host
        by_device = np.where(
            on_host < 1,
            self.times.operator_seconds(self.training.optimizer, left * shard, left * update)
            + self.times.operator_seconds("clip", left * shard, left * clip),
            0.0,
        )
        together = np.maximum if self.training.software.updates_side_by_side else np.add
        return np.asarray(together(by_device, by_host))

    def _nvme_seconds(self, elements: Array) -> Array:
        """Seconds of reading and writing so many elements' parameters and state, all ranks of a host at once.

        It is assumed that drives read ahead and write behind the update (ZeRO-Infinity, arXiv 2104.07857, is such an engine), so
        the longer of drives and update counts.
        """
        host, ranks = self.times.node.host, self.times.node.devices_per_host
        if not (elements.any() and host.nvme_bytes):
            return np.zeros_like(elements)
        each = 1 / host.nvme_read_bytes_per_s + 1 / host.nvme_write_bytes_per_s
        return np.asarray(self._state_bytes * elements * ranks * each)

    @property
    def _state_bytes(self) -> float:
        """Bytes of an element's fp32 parameter and optimizer state."""
        return self.training.precision.parameter_bytes_per_element * (1.0 + OPTIMIZER_STATES[self.training.optimizer])
