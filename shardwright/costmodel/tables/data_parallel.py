"""Data-parallel traffic of each row: how long it is, and how much of it compute does not hide.

The executor's behaviour is what is modelled, with and without a pipeline. FSDP2 keeps fp32 shards, gathers a
compute-format copy of each layer and reduces gradients in the reduction format: into the shard after every microbatch under
ZeRO-2 and -3, after the last one under ZeRO-0 and -1; between replicas once a step. The shards of a parameter lie on the ranks of
dp_shard and cp alike, as in torchtitan: their gradients are summed over both. Experts that ep spreads have shards and
replicas of their own.
"""

from dataclasses import dataclass

import numpy as np

from shardwright.base import Array
from shardwright.costmodel.op_times import CollectiveName, Exposed, OpTimes, exposed_beside
from shardwright.specs import (
    Candidates,
    ClusterSpec,
    RankGroup,
    TrainingSpec,
    expert_replicate_group,
    expert_shard_group,
    replicate_group,
    shard_group,
)


@dataclass(frozen=True)
class DataParallel:
    """Traffic of rows with `parameters` (N, R) whose passes take `forward` (N, R) and `backward` (N, R, P) seconds.

    `expert_parameters` (N, R) of one rank are those of experts on the ranks of ep. `gathered_bytes` (R,): of one element in the
    copy that is computed with. `freed` (R,): rows that ZeRO-3 frees between their forward and their backward (the head's are next to each other).
    """

    cluster: ClusterSpec
    training: TrainingSpec
    times: OpTimes
    candidates: Candidates
    parameters: Array
    expert_parameters: Array
    gathered_bytes: Array
    freed: Array
    forward: Array
    backward: Array

    def in_forward(self) -> Exposed:
        """Every microbatch: ZeRO-3 gathers each layer, from the host where the shard lives there."""
        each = self._gathers_each
        return self._beside(self.forward, each * self._gather_seconds, each * self._copy_seconds)

    def in_first_forward(self) -> Exposed:
        """Once a step: below ZeRO-3 the parameters are gathered when first used."""
        once = ~self._gathers_each
        hidden = self._chunks_behind[..., 0] if self.training.software.overlaps_gather else 0.0
        behind = hidden * self.forward
        return self._beside(behind, once * self._gather_seconds, once * self._copy_seconds)

    def in_backward(self) -> Exposed:
        """Every microbatch: ZeRO-3 gathers what it freed; ZeRO-2 and -3 reduce, and store on the host."""
        network, copies = self._each_backward()
        return self._beside(self.backward, network, copies)

    def in_last_backward(self) -> Exposed:
        """Once a step: what the reduction that was put off, and the one between replicas, add to `in_backward`."""
        network, copies = self._each_backward()
        put_off = ~self._reduces_each
        once = put_off * self._reduce_seconds + self._replica_seconds
        if not self.training.software.overlaps_reduction:
            return Exposed(once[..., None] + np.zeros_like(self.backward), (put_off * self._copy_seconds)[..., None])
        every = self._beside(self.backward, network, copies)
        last = self._beside(
            self._chunks_behind * self.backward,
            network + once[..., None],
            copies + (put_off * self._copy_seconds)[..., None],
        )
        copied = np.maximum(0.0, last.host_copy - every.host_copy)
        added = last.network + last.host_copy - every.network - every.host_copy
        return Exposed(np.maximum(0.0, added - copied), copied)

    @property
    def _chunks_behind(self) -> Array:
        """How many microbatches' passes of its size the once-a-step traffic of a row has to hide behind, (N, 1, 1).

        A rank with several pipeline chunks goes on with the next one for pp microbatches; only the last chunk's own pass
        is all there is.
        """
        chunks, pp = self._column("stages_per_rank"), self._column("pp")
        others = np.minimum(pp, self._column("microbatches")) - 1
        return np.asarray(1 + (chunks - 1) / chunks * others)[..., None]

    def _each_backward(self) -> tuple[Array, Array]:
        """Traffic of every microbatch's backward, on the network and to and from the host, (N, R, 1) each."""
        gathers, reduces = self._gathers_each & self.freed, self._reduces_each
        network = gathers * self._gather_seconds + reduces * self._reduce_seconds
        copies = gathers * self._copy_seconds + reduces * self._copy_seconds
        return network[..., None], copies[..., None]

    def _beside(self, compute: Array, network: Array, copies: Array) -> Exposed:
        return exposed_beside(self.cluster, self.times.constants, compute, network, copies)

    def _column(self, name: str) -> Array:
        return np.asarray(getattr(self.candidates, name))[:, None]

    @property
    def _gathers_each(self) -> Array:
        return self._column("zero_stage") >= 3

    @property
    def _reduces_each(self) -> Array:
        return self._column("zero_stage") >= 2

    @property
    def _gather_seconds(self) -> Array:
        return self._over_shards("all_gather", self.gathered_bytes)

    @property
    def _reduce_seconds(self) -> Array:
        return self._over_shards("reduce_scatter", self._gradient_bytes)

    def _over_shards(self, name: CollectiveName, element_bytes: Array | float) -> Array:
        """One collective over the shards of a row's parameters, and one over those of its experts."""
        group = shard_group(self.candidates, self.cluster).column()
        seconds = self._over_group(name, element_bytes * self.parameters, group)
        if self.expert_parameters.any():
            of_experts = expert_shard_group(self.candidates, self.cluster).column()
            theirs = self._over_group(name, element_bytes * self.expert_parameters, of_experts)
            seconds = seconds + np.where(self.expert_parameters > 0, theirs, 0.0)
        return seconds

    def _over_group(self, name: CollectiveName, size_bytes: Array, group: RankGroup) -> Array:
        """One collective over shards, at the stack's share of the network's rate: of ZeRO-3, on groups that leave a node."""
        slowed = self._gathers_each & (np.asarray(group.nodes) > 1)
        share = np.where(slowed, self.training.software.shard_network_fraction, 1.0)
        return np.asarray(self.times.collective_seconds(name, size_bytes, group) / share)

    @property
    def _gradient_bytes(self) -> float:
        return float(self.training.precision.gradient_bytes_per_element)

    @property
    def _replica_seconds(self) -> Array:
        shards, expert_shards = sharded(self.candidates, self.parameters, self.expert_parameters)
        group = replicate_group(self.candidates, self.cluster).column()
        seconds = self.times.collective_seconds("all_reduce", self._gradient_bytes * shards, group)
        if self.expert_parameters.any():
            of_experts = expert_replicate_group(self.candidates, self.cluster).column()
            theirs = self.times.collective_seconds("all_reduce", self._gradient_bytes * expert_shards, of_experts)
            seconds = seconds + np.where(self.expert_parameters > 0, theirs, 0.0)
        return seconds

    @property
    def _copy_seconds(self) -> Array:
        """The shard one way, where it lives on the host."""
        elements = sum(sharded(self.candidates, self.parameters, self.expert_parameters))
        return np.where(
            self._column("offload_optimizer") == 1,
            self.times.host_copy_seconds(self.training.precision.parameter_bytes_per_element * elements),
            0.0,
        )


def sharded(candidates: Candidates, parameters: Array, expert_parameters: Array) -> tuple[Array, Array]:
    """Elements (N, R) of one rank's shard: of what data parallelism shares, and of the experts that ep spreads."""
    return parameters / candidates.shards[:, None], expert_parameters / candidates.expert_shards[:, None]
