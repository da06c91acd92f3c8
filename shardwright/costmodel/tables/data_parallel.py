"""Data-parallel traffic of each row: its duration, and the part that compute does not hide.

The model follows the executor, with and without a pipeline. FSDP2 keeps fp32 shards, gathers a compute-format copy of
each layer, and reduces gradients in the reduction format. Under ZeRO-2 and -3 it reduces into the shard after every
microbatch; under ZeRO-0 and -1 after the last one. A schedule that runs all microbatches of a chunk before the next chunk (breadth-first)
gathers a chunk once for all their forwards and once for all their backwards, and reduces it after the last of them. Between replicas it reduces once a step. The shards of a parameter
lie on the ranks of dp_shard and cp alike, as in torchtitan, so gradients are summed over both. Experts that ep spreads
have shards and replicas of their own.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from shardwright.base import Array
from shardwright.costmodel.op_times import CollectiveName, Exposed, OpTimes, ReplicaExchange, exposed_beside
from shardwright.specs import (
    Candidates,
    NodeGroup,
    RankGroup,
    TrainingSpec,
    ep_group,
    expert_replicate_group,
    expert_shard_group,
    replicate_group,
    shard_group,
)
from shardwright.specs.model import MixtureOfExperts, ModelSpec

RanksOf = Callable[[Candidates, NodeGroup], RankGroup]


@dataclass(frozen=True)
class DataParallel:
    """Traffic of rows with `parameters` (N, R) whose passes take `forward` (N, R) and `backward` (N, R, P) seconds.

    `expert_parameters` (N, R): parameters on one rank of experts that ep spreads. `gathered_bytes` (R,): bytes of one
    element in the copy that compute reads. `freed` (R,): rows that ZeRO-3 frees between their forward and their
    backward. The head is not freed, as its backward follows its forward. `frozen_bytes`, `expert_frozen_bytes` (N, R): bytes of
    frozen weights on one rank, which ZeRO-3 alone shards and gathers, in their own format, and nothing reduces. `passes_back`
    (R,): rows with a backward pass. `copied` (N, R, P): seconds of a row's activations to the host in its forward, and back in
    its backward. `hot` (N, R): elements of a layer's hot experts, which all ranks of ep have for a step. `exchange`: replicas of the mesh also lie in other groups of a mixed cluster; the candidates count all.
    """

    training: TrainingSpec
    times: OpTimes
    candidates: Candidates
    parameters: Array
    expert_parameters: Array
    gathered_bytes: Array
    freed: Array
    frozen_bytes: Array
    expert_frozen_bytes: Array
    passes_back: Array
    forward: Array
    backward: Array
    copied: Array | None = None
    exchange: ReplicaExchange | None = None
    hot: Array | None = None

    def in_forward(self) -> Exposed:
        """Every microbatch: ZeRO-3 gathers each layer, from the host where the shard is there."""
        each = self._gathers_each
        return self._beside(
            self.forward, each * self._gather_seconds, each * self._copy_seconds + self._streamed_seconds
        )

    def in_first_forward(self) -> Exposed:
        """Once a step: below ZeRO-3 the parameters are gathered at their first use. So are a chunk's whose microbatches follow each other.

        All ranks gather from the start of the step. When the first microbatch comes to a later rank, that rank's own
        gathers are past: they took as long as those of the first rank, which the microbatch has waited for. So its way
        through all stages waits for the gathers of one rank, and each stage is charged the pp-th part of its own.
        """
        once = ~self._gathers_each
        hidden = self._chunks_behind[..., 0] if self.training.software.overlaps_gather else 0.0
        gathered = once * self._gather_seconds + self._of_hot("all_gather", self.gathered_bytes)
        exposed = self._beside(hidden * self.forward, gathered, once * self._copy_seconds)
        pp = self._column("pp")
        return Exposed(exposed.network / pp, exposed.host_copy / pp)

    def in_backward(self) -> Exposed:
        """Every microbatch: ZeRO-3 gathers the rows it freed; ZeRO-2 and -3 reduce where the stack does not defer it, and store
        on the host. What copies of activations add to the forward counts here, because it depends on the recompute policy."""
        network, copies = self._each_backward()
        found = self._beside(self.backward, network, copies)
        if self.copied is None:
            return found
        return Exposed(found.network, found.host_copy + self._copied_in_forward())

    def in_last_backward(self) -> Exposed:
        """Once a step: seconds that a postponed reduction, and the one between replicas, add to `in_backward`; where the microbatches of
        a chunk follow each other, also the gather that they all need."""
        network, copies = self._each_backward()
        put_off = ~self._reduces_each
        once = (
            put_off * self._reduce_seconds
            + self._replica_seconds
            + self._of_hot("reduce_scatter", self._gradient_bytes)
        )
        once = once + (self._gathers_by_chunk & self._gathers_again) * self._gather_seconds
        if not self.training.software.overlaps_reduction:
            return Exposed(
                once[..., None] + np.zeros_like(self.backward), (put_off * self._last_gradients_seconds)[..., None]
            )
        every = self._beside(self.backward, network, copies)
        last = self._beside(
            self._chunks_behind * self.backward,
            network + once[..., None],
            copies + (put_off * self._last_gradients_seconds)[..., None],
        )
        copied = np.maximum(0.0, last.host_copy - every.host_copy)
        added = last.network + last.host_copy - every.network - every.host_copy
        return Exposed(np.maximum(0.0, added - copied), copied)

    def copied_bytes(self) -> Array:
        """(N, R): memory traffic of a step's copies between parameters or gradients and communication buffers.

        They run on the stream of the compute. FSDP2 copies what it gathered into parameters, and gradients into its
        buffer, in the format of the reduction (torch/distributed/fsdp/_fully_shard/_fsdp_collectives.py,
        foreach_all_gather_copy_out and foreach_reduce). FSDP1 gathers one flat parameter that layers view, and joins
        their gradients in the compute format (_flat_param.py; the gradient of torch.split).
        """
        stack, precision = self.training.software, self.training.precision
        candidates, each = self.candidates, self._column("microbatches")
        parameters = self.parameters * (candidates.shards > 1)[:, None]
        experts = self.expert_parameters * (candidates.expert_shards > 1)[:, None]
        gathers = np.where(
            self._gathers_each, each * (1 + self._gathers_again), 1 + self._gathers_by_chunk * self._gathers_again
        )
        gathers = gathers * stack.copies_gathered
        reduces = np.where(self._reduces_each, each, 1) * stack.copies_gradients
        made = precision.activation_bytes_per_element
        joined = made + (precision.gradient_bytes_per_element if stack.copies_gathered else made)
        copied = (parameters + experts) * (gathers * 2 * self.gathered_bytes + reduces * joined)
        frozen = self.frozen_bytes * (candidates.shards > 1)[:, None]
        frozen = frozen + self.expert_frozen_bytes * (candidates.expert_shards > 1)[:, None]
        return np.asarray(copied + np.where(self._column("zero_stage") >= 3, gathers * 2 * frozen, 0.0))

    def summed_bytes(self) -> Array:
        """(N, R): memory traffic of adding the gradients of a step's microbatches up, in kernels on the stream of the compute.

        A kernel reads a gradient in the compute format and the sum in the format of the reduction, and writes the sum. Where no
        buffer waits for it, the first gradient is the sum, or is cast to its format (torch/distributed/fsdp/_fully_shard/_fsdp_param.py,
        to_accumulated_grad_if_needed, accumulate_unsharded_grad_if_needed; torch/csrc/autograd/functions/accumulate_grad.h).
        Megatron adds in the matmul (weight_matmuls.py), but for the embedding, whose hook adds what its kernel wrote
        (distributed_data_parallel.py, param.main_grad.add_). Where each microbatch is reduced, shards are added on the stream of the
        reduction, which is left out.
        """
        stack, precision = self.training.software, self.training.precision
        made, kept = precision.activation_bytes_per_element, precision.gradient_bytes_per_element
        microbatches = self._column("microbatches")
        first = 2 * kept + made if stack.keeps_gradient_buffer else (made != kept) * (made + kept)
        each = (2 * kept + made) * (microbatches - 1) + first * ((microbatches > 1) | stack.keeps_gradient_buffer)
        on_device = ~self._reduces_each * (1 - self._column("offload_gradients"))
        apart = np.ones(self.parameters.shape[1])
        if stack.sums_gradients_in_matmuls:
            apart[:-2], apart[-1] = 0.0, 0.0
        return np.asarray(on_device * each * apart * (self.parameters + self.expert_parameters))

    @property
    def whole_frozen_bytes(self) -> Array:
        """(N, R): bytes of the frozen weights of a rank, unsharded."""
        return np.asarray(self.frozen_bytes + self.expert_frozen_bytes)

    @property
    def frozen_shard_bytes(self) -> Array:
        """(N, R): bytes of a rank's shard of the frozen weights under ZeRO-3."""
        return np.asarray(sum(sharded(self.candidates, self.frozen_bytes, self.expert_frozen_bytes)))

    @property
    def _gathers_again(self) -> Array:
        """(R,): rows that ZeRO-3 gathers for their backward too."""
        return np.asarray(self.freed & self.passes_back)

    @property
    def _chunks_behind(self) -> Array:
        """(N, 1, 1): number of microbatch passes of a row behind which its once-a-step traffic can hide.

        A rank with several pipeline chunks continues with the next chunk for pp microbatches, or for all of them. For the last chunk only
        its own pass remains.
        """
        chunks, pp, microbatches = (self._column(name) for name in ("stages_per_rank", "pp", "microbatches"))
        others = np.where(self._column("by_chunk") == 1, microbatches, np.minimum(pp, microbatches)) - 1
        return np.asarray(1 + (chunks - 1) / chunks * others)[..., None]

    def _each_backward(self) -> tuple[Array, Array]:
        """Traffic of every microbatch's backward, on the network and to and from the host, (N, R, 1) each."""
        gathers, reduces = self._gathers_each & self._gathers_again, self._reduces_each
        network = gathers * self._gather_seconds + reduces * self._reduce_seconds
        copies = gathers * self._copy_seconds + reduces * self._copy_seconds
        copies = (copies + self._streamed_seconds + self._summed_gradients_seconds)[..., None]
        return network[..., None], copies if self.copied is None else copies + self.copied

    def _copied_in_forward(self) -> Array:
        """(N, R, P): seconds that copies of activations add to every forward."""
        each = self._gathers_each
        forward, gathers, copies = (
            part[..., None]
            for part in (self.forward, each * self._gather_seconds, each * self._copy_seconds + self._streamed_seconds)
        )
        without = self._beside(forward, gathers, copies)
        beside = self._beside(forward, gathers, copies + (0.0 if self.copied is None else self.copied))
        return np.asarray(beside.network + beside.host_copy - without.network - without.host_copy)

    def _beside(self, compute: Array, network: Array, copies: Array) -> Exposed:
        return exposed_beside(self.times.node.device, self.times.constants, compute, network, copies)

    def _column(self, name: str) -> Array:
        return np.asarray(getattr(self.candidates, name))[:, None]

    @property
    def _gathers_each(self) -> Array:
        return np.asarray((self._column("zero_stage") >= 3) & (self._column("by_chunk") == 0))

    @property
    def _gathers_by_chunk(self) -> Array:
        """(N, 1): whether ZeRO-3 frees and gathers a chunk once for all microbatches of a direction."""
        return np.asarray((self._column("zero_stage") >= 3) & (self._column("by_chunk") == 1))

    @property
    def _reduces_each(self) -> Array:
        put_off = defers(self.training, self.candidates) | reduces_by_chunk(self.candidates)
        return np.asarray((self._column("zero_stage") >= 2) & ~put_off[:, None])

    @property
    def _gather_seconds(self) -> Array:
        """Seconds of gathering a row. Below ZeRO-3 frozen weights stay where they are."""
        frozen = np.where(self._column("zero_stage") >= 3, 1.0, 0.0)
        return self._over_shards(
            "all_gather",
            self.gathered_bytes * self.parameters + frozen * self.frozen_bytes,
            self.gathered_bytes * self.expert_parameters + frozen * self.expert_frozen_bytes,
        )

    @property
    def _reduce_seconds(self) -> Array:
        size = self._gradient_bytes
        return self._over_shards("reduce_scatter", size * self.parameters, size * self.expert_parameters)

    def _of_hot(self, name: CollectiveName, element_bytes: Array | float) -> Array | float:
        """Seconds in which the ranks of ep get a layer's hot experts from their owners, or give back the sums of their gradients: Hecate's
        sparse collectives (Qing et al. 2025, arXiv 2502.02581), once a step."""
        if self.hot is None:
            return 0.0
        group = ep_group(self.candidates, self.times.node).column()
        return np.where(self.hot > 0, self.times.collective_seconds(name, element_bytes * self.hot, group), 0.0)

    def _over_shards(self, name: CollectiveName, size_bytes: Array, expert_bytes: Array) -> Array:
        """Seconds of one collective over the shards of a row's parameters, and one over those of its experts."""
        group = shard_group(self.candidates, self.times.node).column()
        seconds = self._over_group(name, size_bytes, group)
        if not self._trains_everywhere:
            seconds = np.where(size_bytes > 0, seconds, 0.0)
        if expert_bytes.any():
            of_experts = expert_shard_group(self.candidates, self.times.node).column()
            theirs = self._over_group(name, expert_bytes, of_experts)
            seconds = seconds + np.where(expert_bytes > 0, theirs, 0.0)
        return seconds

    @property
    def _trains_everywhere(self) -> bool:
        return self.training.trainable.trains_all

    def _over_group(self, name: CollectiveName, size_bytes: Array, group: RankGroup) -> Array:
        """Seconds of one collective over shards. Under ZeRO-3 across nodes, a stack
        reaches only its share of the network's rate."""
        slowed = (self._column("zero_stage") >= 3) & (np.asarray(group.nodes) > 1)
        share = np.where(slowed, self.training.software.shard_network_fraction, 1.0)
        return np.asarray(self.times.collective_seconds(name, size_bytes, group) / share)

    @property
    def _gradient_bytes(self) -> float:
        return float(self.training.precision.gradient_bytes_per_element)

    @property
    def _replica_seconds(self) -> Array:
        shards, expert_shards = sharded(self.candidates, self.parameters, self.expert_parameters)
        seconds = self._over_replicas(shards, replicate_group)
        exact = ~self.candidates.approximates[:, None]  # else synchronisation.py has what replicas exchange
        if not self._trains_everywhere:
            seconds = np.where(shards > 0, seconds, 0.0)
        if self.expert_parameters.any():
            theirs = self._over_replicas(expert_shards, expert_replicate_group)
            seconds = seconds + np.where(self.expert_parameters > 0, theirs, 0.0)
        return np.asarray(np.where(exact, seconds, 0.0))

    def _over_replicas(self, elements: Array, ranks_of: RanksOf) -> Array:
        """Seconds of summing the gradients of so many `elements` (N, R) over the ranks that hold the same."""
        size_bytes = self._gradient_bytes * elements
        if self.exchange is not None:
            return self.exchange.all_reduce_seconds(size_bytes, self.candidates, ranks_of)
        group = ranks_of(self.candidates, self.times.node).column()
        return self.times.collective_seconds("all_reduce", size_bytes, group)

    @property
    def _copy_seconds(self) -> Array:
        """Seconds of copying the part of the shard that is on the host one way."""
        return self._shard_seconds(self._column("offload_optimizer"))

    @property
    def _last_gradients_seconds(self) -> Array:
        """Seconds of copying gradients to the host after the last microbatch: those that are not there yet."""
        several = self._column("microbatches") > 1
        return self._shard_seconds(self._column("offload_optimizer") - several * self._column("offload_gradients"))

    def _shard_seconds(self, share: Array) -> Array:
        """Seconds of copying so large a share of the shard, (N, 1), one way."""
        elements = share * sum(sharded(self.candidates, self.parameters, self.expert_parameters))
        moves = (share > 0) & ((elements > 0) | self._trains_everywhere)
        size_bytes = self.training.precision.parameter_bytes_per_element * elements
        return np.where(moves, self.times.host_copy_seconds(size_bytes), 0.0)

    @property
    def _summed_gradients_seconds(self) -> Array:
        """Seconds of a microbatch's copies of the gradients that the host keeps. All microbatches but the first bring the sum to the
        device, and all take it back (DeepSpeed, zero/stage_1_and_2.py, async_accumulate_grad_in_cpu_via_gpu)."""
        microbatches = self._column("microbatches")
        size_bytes = (
            self._gradient_bytes * (self.parameters + self.expert_parameters) * self._column("offload_gradients")
        )
        times = np.where(microbatches > 1, 2 - 1 / microbatches, 0.0)
        return np.where(size_bytes > 0, times * self.times.host_copy_seconds(size_bytes), 0.0)

    @property
    def _streamed_seconds(self) -> Array:
        """Seconds of bringing the streamed layers' weights from the host for one pass, spread over all layers."""
        size_bytes = self.gathered_bytes * (self.parameters + self.expert_parameters) * self.streamed
        return np.where(size_bytes > 0, self.times.host_copy_seconds(size_bytes), 0.0)

    @property
    def streamed(self) -> Array:
        """(N, R): share of a row's layers whose weights come from the host for each pass; the ends stay on the device."""
        is_layer = np.arange(self.parameters.shape[1]) < self.parameters.shape[1] - 2
        return np.asarray(self._column("offload_parameters") * is_layer)


def defers(training: TrainingSpec, candidates: Candidates) -> Array:
    """(N,): whether ZeRO 2 and 3 reduce once a step (see `Stack.defers_reduction`)."""
    return np.asarray((candidates.pp > 1) & training.software.defers_reduction)


def reduces_by_chunk(candidates: Candidates) -> Array:
    """(N,): whether ZeRO 2 and 3 reduce a chunk once for all its microbatches, which follow each other."""
    return np.asarray((candidates.by_chunk == 1) & (candidates.zero_stage >= 2))


def sharded(candidates: Candidates, parameters: Array, expert_parameters: Array) -> tuple[Array, Array]:
    """(N, R): elements of one rank's shard, of parameters that data
    parallelism shards, and of experts that ep spreads."""
    return parameters / candidates.shards[:, None], expert_parameters / candidates.expert_shards[:, None]


def hot_elements(model: ModelSpec, training: TrainingSpec, candidates: Candidates, rows: int) -> Array | None:
    """(N, R): elements of each layer's hot experts on a rank that has them for a step; None where none are asked for."""
    hot = training.hot_experts
    if not hot:
        return None
    found = np.zeros((len(candidates), rows))
    for index, block in enumerate(model.layer_classes):
        if isinstance(block.ffn, MixtureOfExperts):
            elements = sum(p.elements for p in block.parameters(model.hidden_size) if p.expert and not p.idle)
            each = elements / block.ffn.experts / np.asarray(candidates.expert_tp)
            found[:, index] = np.where(candidates.ep > 1, min(hot, block.ffn.experts) * each, 0.0)
    return found
