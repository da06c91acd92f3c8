"""Cost tables from the work of each row: adds data parallelism, the optimizer, and the memory of the parameters."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.costmodel.op_times import CollectiveName, Crossing, OpTimes, ReplicaExchange
from shardwright.specs import (
    OWN_STACK,
    PLAIN_STRATEGIES,
    POLICIES,
    Candidates,
    Strategy,
    TrainingSpec,
    pipeline_group,
    tp_group,
)
from shardwright.specs.model import ModelSpec

from .activation_offload import ActivationOffload
from .cost_tables import CostTables, Seconds, StaticBytes
from .data_parallel import DataParallel, hot_elements, sharded
from .distinct_rows import DistinctRows, distinct_rows
from .memory import message_bytes
from .static import StaticMemory, sums_in_pipeline
from .straggler import largest_of
from .synchronisation import Synchronisation
from .update import Update
from .whole_matrices import WholeMatrices

_EXCHANGES = ("tensor_parallel", "context_parallel", "expert_parallel")


def build_tables(
    model: ModelSpec,
    training: TrainingSpec,
    candidates: Candidates,
    times: OpTimes,
    *,
    strategies: Sequence[Strategy] = PLAIN_STRATEGIES,
    mtp_apart: bool = False,
    ends: Crossing | None = None,
    exchange: ReplicaExchange | None = None,
) -> CostTables:
    """Build the cost tables of every candidate. Pure. The caller checks that a candidate divides model and batch.

    `strategies`: what a layer may do; the plain ones come first. `mtp_apart`: multi-token prediction layers are one more class of layers, not part of the head.
    `ends`: what the first stage and the last send each other, where they lie in different groups of a mixed cluster.
    `exchange`: what the replicas in several groups sum up; the candidates' dp_replicate counts those of all groups.
    """
    rows = distinct_rows(model, training, candidates, times, mtp_apart=mtp_apart)
    return _Builder(model, training, times, candidates, rows, tuple(strategies), ends, exchange).tables()


def crossing_seconds(
    model: ModelSpec, training: TrainingSpec, candidates: Candidates, times: OpTimes, crossing: Crossing
) -> Array:
    """(N,): seconds until one microbatch's hidden states are on a next stage in another group, whose `times` are given."""
    nothing = DistinctRows([], np.zeros(0, dtype=np.int64))
    return _Builder(model, training, times, candidates, nothing, PLAIN_STRATEGIES).send_seconds(crossing)


@dataclass(frozen=True)
class LeastCosts:
    """What rows cost without the parts that take longest to work out: data parallelism, copies to the host, stragglers.

    `forward` (N, R) and `backward` (N, R, P): seconds of one microbatch, at most those of the cost tables.
    `weight_gradient_seconds`, `stays` (bytes that a rank holds at every moment) (N, R) and `activation_bytes` (N, R, P) are
    those of the tables.
    """

    forward: Array
    backward: Array
    weight_gradient_seconds: Array
    stays: Array
    activation_bytes: Array


def build_least(
    model: ModelSpec,
    training: TrainingSpec,
    candidates: Candidates,
    times: OpTimes,
    *,
    strategies: Sequence[Strategy] = PLAIN_STRATEGIES,
) -> LeastCosts:
    """Return what the rows of every candidate cost at the least, in a fraction of the time that cost tables take.

    Neighbours that differ in their stages on a rank alone cost the same, unless these decide what hides an exchange of tokens.
    """
    new = [
        np.diff(of) != 0
        for name, of in vars(candidates).items()
        if name != "stages_per_rank" or training.overlaps_dispatch
    ]
    starts = np.append(True, np.any(new, axis=0))
    alike = candidates[np.flatnonzero(starts)]
    rows = distinct_rows(model, training, alike, times)
    least = _Builder(model, training, times, alike, rows, tuple(strategies)).least()
    place = np.cumsum(starts) - 1
    return LeastCosts(
        **{name: np.broadcast_to(of, (len(alike), *of.shape[1:]))[place] for name, of in vars(least).items()}
    )


@dataclass(frozen=True)
class _Builder:
    model: ModelSpec
    training: TrainingSpec
    times: OpTimes
    candidates: Candidates
    rows: DistinctRows
    strategies: tuple[Strategy, ...]
    ends: Crossing | None = None
    exchange: ReplicaExchange | None = None

    def tables(self) -> CostTables:
        forward, backward = self._own_forward(), self._own_backward()
        nothing = np.zeros(1)
        traffic = self._traffic(sum(forward.values(), nothing), sum(backward.values(), nothing))
        beside_forward, beside_backward = traffic.in_forward(), traffic.in_backward()
        first, last = traffic.in_first_forward(), traffic.in_last_backward()
        sums = self._microbatch_sum_seconds(traffic)
        noise = self.times.constants.step_noise if self.times.node.device.waits_for_the_slowest else 0.0
        waiting = (noise * largest_of(self.candidates.ranks))[:, None, None]
        return CostTables(
            forward=self._seconds(
                **forward,
                data_parallel=beside_forward.network,
                host_copy=beside_forward.host_copy,
                straggler=waiting[..., 0] * forward["compute"]
                + self._uneven_share * self._stacked("uneven_forward_seconds"),
            ),
            backward=self._seconds(
                **backward,
                data_parallel=beside_backward.network + sums[..., None],
                host_copy=beside_backward.host_copy,
                straggler=waiting * (backward["compute"] + backward["recompute"])
                + self._uneven_share[..., None] * self._stacked("uneven_backward_seconds_by_policy"),
            ),
            first_forward=self._seconds(data_parallel=first.network, host_copy=first.host_copy),
            last_backward=self._seconds(
                data_parallel=last.network
                + self._once_a_step_seconds(traffic)
                + self._synchronisation(traffic).seconds[..., None]
                + self._matrix_exchanges[0],
                host_copy=last.host_copy,
                tensor_parallel=self._summed_once()[..., None] + self._matrix_exchanges[1],
            ),
            weight_gradient_seconds=(1 + waiting[..., 0]) * self._stacked("weight_gradient_seconds") + sums,
            optimizer_seconds=self._update(traffic).seconds,
            send_seconds=self.send_seconds(),
            activation_bytes=self._offload.staying if self._offload else self._stacked("activation_bytes_by_policy"),
            working_bytes=self._stacked("working_bytes_by_policy")
            + (self._offload.buffered if self._offload else 0.0)
            + self._held_inputs(),
            slack=self._slack(),
            static=self._static_bytes(traffic),
            host_activation_bytes=self._offload.host_bytes_each if self._offload and self._offloads_tokens else None,
        )

    def least(self) -> LeastCosts:
        nothing = np.zeros(1)
        forward, backward = sum(self._own_forward().values(), nothing), sum(self._own_backward().values(), nothing)
        kept = self._offload.staying if self._offload else self._stacked("activation_bytes_by_policy")
        stays = self._static_bytes(self._traffic(forward, backward)).stays
        return LeastCosts(forward, backward, self._stacked("weight_gradient_seconds"), stays, kept)

    def _own_forward(self) -> dict[str, Array]:
        """(N, R) each: seconds of a forward by cause, without what runs beside it."""
        causes = {cause: self._stacked(f"{cause}_forward_seconds") for cause in _EXCHANGES}
        return {"compute": self._stacked("forward_seconds"), **causes}

    def _own_backward(self) -> dict[str, Array]:
        """(N, R, 1) or (N, R, P) each: seconds of a backward by cause, without what runs beside it."""
        causes = {cause: self._stacked(f"{cause}_backward_seconds_by_policy") for cause in _EXCHANGES}
        sums = self._sums_each * self._stacked("gradient_sum_seconds")
        causes["tensor_parallel"] = causes["tensor_parallel"] + sums[..., None]
        recompute = self._stacked("recompute_seconds_by_policy")
        return {"compute": self._stacked("backward_seconds")[..., None], "recompute": recompute, **causes}

    @property
    def _sums_each(self) -> Array:
        """(N, 1): whether gradients are summed over tp in each microbatch, before data parallelism reduces them."""
        return self._column("zero_stage") >= 2

    def _summed_once(self) -> Array:
        """(N, R): seconds of summing gradients over tp once a step."""
        made, added = self._stacked("gradient_sum_seconds"), self._stacked("added_gradient_sum_seconds")
        return np.where(self._sums_each, 0.0, np.where(self._column("microbatches") > 1, added, made))

    @property
    def _uneven_share(self) -> Array:
        """(N, 1): by how many standard deviations of a microbatch's passes the slowest data-parallel rank lags, on average.

        Under ZeRO-3 every layer's gather waits for it, so for every microbatch. Else ranks meet once a step, and what M
        microbatches add up to varies by the root of M.
        """
        chosen = self.candidates
        meetings = np.where((chosen.zero_stage >= 3) & (chosen.by_chunk == 0), 1.0, chosen.microbatches)
        return np.asarray(largest_of(chosen.dp) / np.sqrt(meetings))[:, None]

    def _traffic(self, forward: Array, backward: Array) -> DataParallel:
        """What data parallelism and the host move beside passes of so many seconds."""
        return DataParallel(
            self.training,
            self.times,
            self.candidates,
            self._stacked("parameters"),
            self._stacked("expert_parameters"),
            self._gathered_bytes,
            self._freed,
            self._stacked("frozen_bytes"),
            self._stacked("expert_frozen_bytes"),
            self._passes_back,
            forward,
            backward,
            self._offload.copy_seconds if self._offload else None,
            self.exchange,
            hot_elements(self.model, self.training, self.candidates, len(self.rows)),
        )

    def _shard(self, traffic: DataParallel) -> Array:
        """(N, R): elements of this rank's shard."""
        return np.asarray(sum(sharded(self.candidates, traffic.parameters, traffic.expert_parameters)))

    def _synchronisation(self, traffic: DataParallel) -> Synchronisation:
        """What replicas exchange where they do not reduce every gradient in full."""
        shards, expert_shards = sharded(self.candidates, traffic.parameters, traffic.expert_parameters)
        compute = traffic.forward + traffic.backward.min(axis=-1)
        return Synchronisation(
            self.training,
            self.times,
            self.candidates,
            shards,
            expert_shards,
            np.maximum(1, self._layer_counts),
            compute,
            self._stacked("whole_parameters") / self.candidates.shards[:, None],
            self.exchange,
        )

    def _update(self, traffic: DataParallel) -> Update:
        update = Update(self.training, self.times, self.candidates, self._shard(traffic), self._matrices)
        if not self.candidates.delayed_update.any() or not self.times.node.device.has_own_memory:
            return update
        each = traffic.forward + traffic.backward.min(axis=-1)
        return replace(update, passes=self._column("microbatches") * each, layers=self._layer_counts)

    @property
    def _layer_counts(self) -> IntArray:
        """(R,): how many layers each row stands for, 0 for the ends."""
        return np.bincount(self.model.class_of_layer, minlength=len(self.rows))

    @cached_property
    def _matrices(self) -> WholeMatrices | None:
        """The matrices that the optimizer needs whole, None where it needs none."""
        if not self.training.method.whole_matrix:
            return None
        return WholeMatrices(self.model, self.training, self.times, self.candidates, self._stacked("parameters"))

    @property
    def _matrix_exchanges(self) -> tuple[Array, Array]:
        """Seconds of exchanging matrices once a step, over the shards and over tp, to broadcast over (N, R, P)."""
        matrices = self._matrices
        if matrices is None:
            return np.zeros((1, 1, 1)), np.zeros((1, 1, 1))
        return matrices.shard_exchange_seconds[..., None], matrices.tp_exchange_seconds[..., None]

    def _held_inputs(self) -> Array:
        """(N, R, P): bytes of gradients that stay where a stack holds frozen layers' inputs and their gradients to the end of the
        backward pass. With full recompute the layers' inputs are the kept activations; then their gradients come on top, but
        for those of the first and of the last layer in the backward pass, which are in use anyway. With other policies more is
        kept when the backward pass starts than at its end."""
        shape = (len(self.candidates), len(self.rows), len(self.strategies))
        trainable = self.training.trainable
        if not self.training.software.holds_frozen_inputs or trainable.trains_layer_weights:
            return np.zeros(shape)
        sharded_layers = (self.candidates.zero_stage >= 2) & (self.candidates.data_ranks > 1)
        tokens = self.candidates.micro_batch * float(self.training.seq_len) / self.candidates.cp
        hidden_bytes = self.training.precision.activation_bytes_per_element * tokens * self.model.hidden_size
        others = np.maximum(0.0, self.model.layer_count / self.candidates.pp - 2)
        found = np.zeros(shape)
        full = [one.recompute == "full" for one in self.strategies]
        found[:, :-2, full] = (sharded_layers * others * hidden_bytes)[:, None, None]
        return found

    @cached_property
    def _offload(self) -> ActivationOffload | None:
        """The activations that go to the host, if any do."""
        if not (self.training.activation_offload_layers or self._offloads_tokens):
            return None
        kept, layers = self._stacked("activation_bytes_by_policy"), self.model.layer_count
        return ActivationOffload(self.training, self.times, self.candidates, layers, self.strategies, kept)

    @property
    def _offloads_tokens(self) -> bool:
        return any(one.activation_offload for one in self.strategies)

    @property
    def _freed(self) -> Array:
        """Rows that ZeRO-3 frees after their forward: all except the head and an embedding tied to it."""
        freed = np.ones(len(self.rows), dtype=bool)
        freed[-1] = False
        freed[-2] = not self.model.tied_embeddings
        return freed

    @property
    def _passes_back(self) -> Array:
        """(R,): rows that have a backward pass: all but layers below the trained ones, and a frozen embedding."""
        backs = np.ones(len(self.rows), dtype=bool)
        classes = self.model.layer_classes
        backs[: len(classes)] = [not block.frozen for block in classes]
        backs[-2] = self.training.trainable.trains_embedding
        return backs

    def _stacked(self, name: str) -> Array:
        stacked = self.rows.stacked(name)
        if not name.endswith("_by_policy") or self.strategies == PLAIN_STRATEGIES:
            return stacked
        return stacked[..., [POLICIES.index(one.recompute) for one in self.strategies]]

    def _column(self, name: str) -> Array:
        return np.asarray(getattr(self.candidates, name))[:, None]

    @property
    def _gathered_bytes(self) -> Array:
        """(R,): bytes of one element of each row's weights in the copy that compute reads."""
        precision = self.training.precision
        each = np.full(len(self.rows), precision.activation_bytes_per_element)
        each[:-2] = precision.gathered_bytes_per_element
        return each

    def _seconds(self, **parts: Array) -> Seconds:
        """Broadcast each cause of shape (N, R) or (N, R, P) to (N, R, P); missing causes are 0."""
        shape = (len(self.candidates), len(self.rows), len(self.strategies))
        wide = {name: part[..., None] if part.ndim == 2 else part for name, part in parts.items()}
        nothing = np.zeros(1)
        return Seconds(**{f.name: np.broadcast_to(wide.get(f.name, nothing), shape) for f in fields(Seconds)})

    def _once_a_step_seconds(self, traffic: DataParallel) -> Array:
        """Seconds that data parallelism adds to a step beside its gathers and
        reductions, to broadcast over (N, R, P)."""
        return self._tied_seconds() + self._broadcast_seconds() + self._sharding_seconds(traffic)[..., None]

    def _tied_seconds(self) -> Array:
        """Seconds of summing the gradients of a tied embedding on the first and last stage, once a step."""
        if not (self.model.tied_embeddings and self.training.trainable.trains_embedding):
            return np.zeros((1, 1, 1))
        elements = self.model.vocab_size * (self.model.embedding_size or self.model.hidden_size)
        shard_bytes = (
            self.training.precision.gradient_bytes_per_element
            * elements
            / (self.candidates.tp * self.candidates.shards)
        )
        seconds = self._between_stages("all_reduce", shard_bytes, self.ends)
        ends = np.array([0.0] * (len(self.rows) - 2) + [1.0, 1.0])
        return np.asarray(seconds[:, None, None] * ends[None, :, None])

    def _broadcast_seconds(self) -> Array:
        """Seconds under ZeRO-1 and -2 where each owner broadcasts its updated
        shard in turn, spread over a rank's layers."""
        if not self.training.software.broadcasts_updates:
            return np.zeros((1, 1, 1))
        owners = np.where(
            (self.candidates.zero_stage == 1) | (self.candidates.zero_stage == 2), self.candidates.shards, 0
        )
        layers = self.model.layer_count / self.candidates.pp
        seconds = self.times.constants.broadcast_seconds * owners / layers
        is_layer = np.array([1.0] * (len(self.rows) - 2) + [0.0, 0.0])
        return np.asarray(seconds[:, None, None] * is_layer[None, :, None])

    def _sharding_seconds(self, traffic: DataParallel) -> Array:
        """(N, R): seconds beside no compute: on a GPU copies of what is gathered and reduced; on a CPU our executor's hooks, copies and
        sums as measured. It wraps modules on a single rank too."""
        parameters = traffic.parameters + traffic.expert_parameters
        copies = np.zeros_like(parameters)
        if self.times.node.device.has_own_memory:
            copies = self.times.memory_bound_seconds(traffic.copied_bytes())
        if self.training.stack != OWN_STACK:
            return copies
        microbatches = self._column("microbatches")
        repeats = np.where((self._column("zero_stage") >= 2) & (self._column("by_chunk") == 0), microbatches, 1)
        size_bytes = self.training.precision.parameter_bytes_per_element * parameters
        size_bytes = size_bytes + np.where(self._column("zero_stage") >= 3, traffic.whole_frozen_bytes, 0.0)
        return copies + self.times.sharding_seconds(size_bytes, microbatches, repeats)

    def _microbatch_sum_seconds(self, traffic: DataParallel) -> Array:
        """(N, R): seconds of adding one microbatch's weight gradients to the sum, the mean of a step's; on a CPU `_sharding_seconds` has
        them."""
        if not self.times.node.device.has_own_memory:
            return np.zeros_like(traffic.parameters)
        return np.asarray(self.times.memory_bound_seconds(traffic.summed_bytes()) / self._column("microbatches"))

    def _between_stages(self, name: CollectiveName, size_bytes: Array, crossing: Crossing | None) -> Array:
        """(N,): seconds of a collective of two ranks of two stages, in one group or across groups."""
        if crossing is not None:
            return crossing.seconds(name, size_bytes, self.candidates.ranks // self.candidates.pp)
        placed = self.candidates if self.exchange is None else self.exchange.inside(self.candidates)
        return self.times.collective_seconds(name, size_bytes, pipeline_group(placed, self.times.node))

    def send_seconds(self, crossing: Crossing | None = None) -> Array:
        """(N,): seconds until one microbatch's hidden states are on the next stage, split over cp, and over tp where the
        sequence is. `crossing`: the next stage is in another group.

        Where only the software splits the message over tp (`Stack.splits_sends`), the receivers gather it again.
        """
        tp, sequence = self.candidates.tp, self.candidates.sequence_parallel == 1
        regathers = ~sequence & (tp > 1) & (self.candidates.pp > 1) & self.training.software.splits_sends
        sent_bytes = message_bytes(self.model, self.training, self.candidates)
        whole_bytes = sent_bytes * np.where(sequence, tp, 1)
        sent_bytes = sent_bytes / np.where(regathers, tp, 1)
        node = self.times.node
        send = self._between_stages("send", sent_bytes, crossing)
        gather = self.times.collective_seconds("all_gather", whole_bytes, tp_group(self.candidates, node))
        return np.asarray(send + np.where(regathers, gather, 0.0))

    @property
    def _in_heap(self) -> bool:
        return not self.times.node.device.has_own_memory

    def _slack(self) -> Array:
        """(N,): allocator slack. A heap reuses memory of earlier microbatches only
        in part, a caching allocator nearly all."""
        if self._in_heap:
            return np.where(self.candidates.microbatches > 1, self.times.constants.heap_slack, 0.0)
        constants = self.times.constants
        usual = np.where(self.candidates.zero_stage >= 3, constants.gather_slack, constants.allocator_slack)
        usual = np.where(sums_in_pipeline(self.training, self.candidates, in_heap=False), 0.0, usual)
        return np.maximum(usual, self.training.software.allocator_slack or 0.0)

    def _static_bytes(self, traffic: DataParallel) -> StaticBytes:
        matrices, shard = self._matrices, self._shard(traffic)
        return StaticMemory(
            self.model,
            self.training,
            self.times.constants,
            self.candidates,
            traffic,
            in_heap=self._in_heap,
            shard=shard,
            freed=self._freed,
            states=self._update(traffic).state_bytes,
            beside_states=self._synchronisation(traffic).state_bytes,
            temporaries=np.zeros(shard.shape) if matrices is None else matrices.temporary_bytes,
            working=self.rows.stacked("working_bytes_by_policy")[..., POLICIES.index("full")],
            host_activations=self._offload.host_bytes if self._offload else np.zeros(1),
        ).held()
