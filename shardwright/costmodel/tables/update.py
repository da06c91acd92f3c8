"""The update once a step: clipping and the optimizer, on the device, by the host's cores, and to and from its drives."""

from dataclasses import dataclass

import numpy as np

from shardwright.base import Array
from shardwright.costmodel.op_times import CLIP_PASSES, OpTimes
from shardwright.costmodel.optimizers import moved_bytes_per_element, state_bytes_per_element
from shardwright.specs import BYTES_PER_ELEMENT, Candidates, TrainingSpec

from .whole_matrices import WholeMatrices


@dataclass(frozen=True)
class Update:
    """Clipping and update of `shard` (N, R) elements of each row on a rank. `matrices`: those of a method that needs them whole.

    `passes`: seconds of a row's passes in a step, (N, R), and `layers` (R,) how many layers a row stands for, 0 for embedding and head: a
    delayed update of the host runs beside them.
    """

    training: TrainingSpec
    times: OpTimes
    candidates: Candidates
    shard: Array
    matrices: WholeMatrices | None = None
    passes: Array | None = None
    layers: Array | None = None

    @property
    def _elementwise(self) -> Array:
        """(N, R): elements of the shard that are updated one by one."""
        if self.matrices is None:
            return self.shard
        return np.maximum(0.0, self.shard - self.matrices.elements / self.candidates.shards[:, None])

    @property
    def state_bytes(self) -> Array:
        """(N, R): bytes of the state on this rank."""
        each = state_bytes_per_element(self.training.method, self.training.precision.parameter_bytes_per_element)
        states = each * self._elementwise
        return states if self.matrices is None else states + self.matrices.state_bytes

    @property
    def seconds(self) -> Array:
        """(N, R): the host's cores update their share, the device the rest.

        With share f on the host and times d and h of the whole shard, a stack takes (1 - f) d + f h, or the longer of the two
        where it updates both at once (`Stack.updates_side_by_side`). Of a delayed update the part counts that outlasts the passes.
        """
        on_host, on_nvme = (
            column[:, None] for column in (self.candidates.offload_optimizer, self.candidates.offload_nvme)
        )
        shard, elementwise, method = self.shard, self._elementwise, self.training.method
        element = self.training.precision.parameter_bytes_per_element
        update = moved_bytes_per_element(method, element, self.training.software) * elementwise
        clip = element * CLIP_PASSES * shard
        moved = update + clip + self._copies_shown * shard
        by_host = np.where(on_host > 0, self.times.host_update_seconds(on_host * shard, on_host * moved), 0.0)
        by_host = np.maximum(by_host, self._nvme_seconds(on_nvme * on_host * shard))
        by_host = self._beside_passes(by_host)
        left = 1 - on_host
        by_device = np.where(
            on_host < 1,
            self._elementwise_seconds(left * elementwise, left * update)
            + self.times.operator_seconds("clip", left * shard, left * clip),
            0.0,
        )
        if self.matrices is not None:
            by_device = by_device + self.matrices.seconds
        together = np.maximum if self.training.software.updates_side_by_side else np.add
        return np.asarray(together(by_device, by_host))

    @property
    def _copies_shown(self) -> Array:
        """(N, 1): bytes of an element that a delayed update copies first, read and written, for the passes that run beside it."""
        return np.asarray(2.0 * BYTES_PER_ELEMENT["fp32"] * self.candidates.delayed_update[:, None])

    def _beside_passes(self, by_host: Array) -> Array:
        """What is left of the host's seconds (N, R) beside passes of the next step, where the update is delayed.

        Each layer's update hides behind its own passes. Of embedding and head, whose parameters outweigh their compute, the same share is left
        as of the layers. On a CPU passes and update take the same cores.
        """
        if self.passes is None or self.layers is None:
            return by_host
        left = np.maximum(0.0, by_host - self.passes) * (self.layers > 0)
        whole = (by_host * self.layers).sum(axis=1, keepdims=True)
        share = np.divide(
            (left * self.layers).sum(axis=1, keepdims=True), whole, out=np.ones_like(whole), where=whole > 0
        )
        left = np.where(self.layers > 0, left, share * by_host)
        return np.where(self.candidates.delayed_update[:, None] > 0, left, by_host)

    def _elementwise_seconds(self, elements: Array, moved_bytes: Array) -> Array:
        method = self.training.method
        if method.whole_matrix:
            return self.times.operator_seconds("adamw", elements, moved_bytes)
        if method.may_leave_device:
            return self.times.operator_seconds("sgd" if method.name == "sgd" else "adamw", elements, moved_bytes)
        return self.times.memory_bound_seconds(moved_bytes)

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
        """Bytes of an element's parameter and optimizer state."""
        element = self.training.precision.parameter_bytes_per_element
        return element + state_bytes_per_element(self.training.method, element)
