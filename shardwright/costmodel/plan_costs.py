"""The costs of one plan that has been checked: those of its stages, the step that they add up to, and the memory of every rank."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.costmodel.layers import (
    left_out_flops_per_sequence,
    model_flops_per_sequence,
    recompute_flops_per_sequence,
)
from shardwright.costmodel.op_times import (
    CollectiveName,
    OpTimes,
    ReplicaExchange,
    overlap_saving_seconds,
)
from shardwright.costmodel.pipeline import (
    StageCosts,
    peak_activation_bytes,
    step_parts,
    summed_moments,
    waiting_bytes,
)
from shardwright.costmodel.tables import (
    CostTables,
    HeldBytes,
    Rows,
    StageSums,
    build_tables,
    candidates_of,
    communicator_bytes,
    context_bytes,
    layer_mixes,
    receive_buffer_bytes,
)
from shardwright.specs import (
    BYTES_PER_ELEMENT,
    POLICIES,
    Candidates,
    Estimate,
    Interval,
    MemoryBytes,
    Plan,
    StepSeconds,
    TrainingSpec,
    by_rank,
    splits_backward,
    stages_group,
    visits,
)
from shardwright.specs.model import ModelSpec

from .intervals import step_intervals
from .mixed_ranks import MixedRanks


@dataclass(frozen=True)
class PlanCosts:
    """The costs of one plan that has been checked.

    `mixed`: its pipeline reaches over groups. `exchange`: replicas of its mesh lie in several groups; these are the costs of those in
    one, the training has their part of the batch, and the plan's dp_replicate counts those of all groups.
    """

    model: ModelSpec
    training: TrainingSpec
    plan: Plan
    times: OpTimes
    mixed: MixedRanks | None = None
    exchange: ReplicaExchange | None = None

    @cached_property
    def sums(self) -> StageSums:
        """Sums of the cost tables over each stage."""
        apart = self.plan.mtp_stage is not None
        mixes = layer_mixes(self.model, self.plan.stages, mtp_apart=apart)
        if self.mixed is not None:
            return StageSums.of_groups(self._tables_of_groups, mixes, self._group_of_stage)
        tables = build_tables(
            self.model,
            self.training,
            candidates_of(self.plan),
            self.times,
            strategies=self.plan.strategies,
            mtp_apart=apart,
            exchange=self.exchange,
        )
        return StageSums.of(tables, mixes, spread=self.plan.vocabulary_parallel != "none")

    @cached_property
    def _sends(self) -> Array:
        """(S - 1,) or (1,): seconds of a message from each stage to the next."""
        if self.mixed is None:
            return self.sums.tables.send_seconds[:1]
        inside = {group: tables.send_seconds for group, tables in self._tables_of_groups.items()}
        sends: Array = self.mixed.sends(self.model, self.training, candidates_of(self.plan), inside)[0]
        return sends

    @cached_property
    def _tables_of_groups(self) -> dict[int, CostTables]:
        """The cost tables of each group that holds a stage, on a mixed cluster."""
        assert self.mixed is not None
        return self.mixed.tables(self.model, self.training, self.plan)

    @property
    def _group_of_stage(self) -> list[int]:
        """The group of each stage's rank, on a mixed cluster."""
        assert self.mixed is not None
        return [self.mixed.group_of_rank[rank] for rank in self.plan.stage_ranks]

    @property
    def _times_of_ranks(self) -> list[OpTimes]:
        """(pp,): the times of each pipeline rank's group."""
        if self.mixed is None:
            return [self.times] * self.plan.mesh.pp
        return [self.mixed.times.of_group[group] for group in self.mixed.group_of_rank]

    def stage_costs(self) -> StageCosts:
        """Seconds per stage, in the form that closed form and simulation take."""
        tables, sums = self.sums.tables, self.sums
        passes = sums.causes(tables.forward), sums.causes(tables.backward)
        saving = overlap_saving_seconds(self.times.node.device, self.training, self.times.constants, *passes)
        costs = sums.stage_seconds().costs(self.plan.schedule, self.plan.mesh.pp, self._sends, saving)
        forward, backward = self._stops()
        sends = costs.send * self._sent_states()
        return replace(costs, forward=costs.forward + forward, backward=costs.backward + backward, send=sends)

    def _sent_states(self) -> Array:
        """(S - 1,): hidden states of a token in the message behind each stage. From multi-token prediction layers on they are
        one more for each."""
        last, first = len(self.plan.stages) - 1, self.plan.mtp_stage
        behind = np.zeros(last) if first is None else np.arange(last) >= first
        return np.asarray(1 + self.training.mtp_layers * behind)

    def _stops(self) -> tuple[float, float]:
        """Seconds of one microbatch's forward and backward in which every rank of an interlaced pipeline waits for the others.

        They exchange the vocabulary's inputs, results and sums, and nothing hides that: a broadcast and a reduction of the
        hidden states for the head and for the embedding each, and the softmax's maximum and sum. The algorithms of
        Vocabulary Parallelism exchange the same beside compute (Yeung et al. 2024, arXiv 2411.05288).
        """
        if self.plan.vocabulary_parallel != "interlaced":
            return 0.0, 0.0
        elements = self.plan.micro_batch * self.training.seq_len / self.plan.mesh.cp
        hidden_bytes = self.training.precision.activation_bytes_per_element * elements * self.model.hidden_size
        ranks = stages_group(Candidates.of(self.plan), self.times.node)

        def seconds(name: CollectiveName, size_bytes: float) -> float:
            return float(self.times.collective_seconds(name, size_bytes, ranks)[0])

        both = seconds("broadcast", hidden_bytes) + seconds("all_reduce", hidden_bytes)
        return both + 2 * seconds("all_reduce", BYTES_PER_ELEMENT["fp32"] * elements), both

    def activation_bytes_per_stage(self) -> Array:
        """Bytes that one microbatch keeps on each stage, logits included."""
        return self.sums.total(self.sums.rows.activation)

    def postponed_bytes_per_stage(self) -> Array:
        """Bytes that one microbatch keeps on each stage from input to weight
        gradient: all activations, also recomputed ones."""
        kept = self.sums.tables.activation_bytes[..., POLICIES.index("none")]
        return self.sums.total(Rows.of(kept)[:, None])

    def _per_rank(self, per_stage: Array) -> Array:
        """(stages per rank, pp): the values of a rank's stages in its column."""
        return by_rank(self.plan.schedule, self.plan.mesh.pp, per_stage)

    def estimate(self) -> Estimate:
        step, sequences = self.step(), self.training.global_batch
        left_out = left_out_flops_per_sequence(self.model, self.training, self.plan)
        whole = sequences * (model_flops_per_sequence(self.model, self.training) - left_out)
        model_flops = self.training.used_share * whole
        again = sequences * recompute_flops_per_sequence(self.model, self.training, self.plan)
        ranks = self.plan.mesh.ranks
        format_ = self.training.precision.compute
        peaks = [times.node.device.peak_flops_per_s[format_] for times in self._times_of_ranks]
        peak_flops = ranks * sum(peaks) / len(peaks) * step.total
        return Estimate(
            step=step,
            step_seconds_intervals=self._intervals(step.total),
            memory=tuple(self.memory()),
            host_bytes=tuple(self._host_bytes().tolist()),
            nvme_bytes=tuple(self._held(self.sums.rows.nvme).tolist()),
            tokens_per_s=self.training.tokens_per_step / step.total,
            model_flops=model_flops,
            hardware_flops=whole + again,
            mfu=model_flops / peak_flops,
            hfu=(whole + again) / peak_flops,
            device_count=ranks,
            basis="profile" if all(times.basis == "profile" for times in self._times_of_ranks) else "catalog",
        )

    def _intervals(self, seconds: float) -> tuple[Interval, Interval]:
        """The intervals of a step; on a mixed cluster each is as wide as those of all groups together."""
        low, high = zip(
            *(step_intervals(seconds, self.model, self.training, times) for times in _distinct(self._times_of_ranks)),
            strict=True,
        )
        return around(low), around(high)

    def step(self) -> StepSeconds:
        """Seconds of the closed form by cause, on the pipeline rank with the
        most work. The rest of the step is bubble."""
        costs, tables = self.stage_costs(), self.sums.tables
        parts = step_parts(self.plan.schedule, costs, self.plan.microbatches)
        rank = int(parts.rank)
        each = [self.sums.causes(tables.forward), self.sums.causes(tables.backward)]
        once = [self.sums.causes(tables.first_forward), self.sums.causes(tables.last_backward)]
        causes = {}
        for cause in each[0]:
            per_stage = self.visits * (each[0][cause] + each[1][cause]) + once[0][cause] + once[1][cause]
            causes[cause] = float(self._per_rank(per_stage).sum(axis=0)[rank])
        for cause, share in _overlapped(causes).items():
            causes[cause] -= share * float(parts.overlap_seconds)
        stops = sum(self._stops()) * self.plan.microbatches * self.plan.stages_per_rank
        return StepSeconds(
            **causes,
            pipeline_transfer=max(0.0, float(parts.transfer_seconds)) + stops,
            pipeline_bubble=float(parts.bubble_seconds),
            optimizer=float(parts.optimizer_seconds),
        )

    @property
    def visits(self) -> IntArray:
        """(stages,): microbatches that pass each stage."""
        plan = self.plan
        return visits(plan.schedule, plan.mesh.pp, len(plan.stages), plan.microbatches)

    def memory(self) -> list[MemoryBytes]:
        """Peak bytes of each pipeline rank by part, in a backward pass or in the update, whichever needs more."""
        tables, pp = self.sums.tables, self.plan.mesh.pp
        static = {name: self._held(Rows.of(value)[:, None]) for name, value in vars(tables.static).items()}
        held, working = self._held_bytes(), self._largest(self.sums.rows.working)
        kept, summed = self._kept_and_summed(static["gradients"])
        logits = self._logit_bytes(kept, working)
        late, apart = static["late_gradients"], static["stream_gradients"]
        reduced = self._largest(Rows.of(tables.static.reduce_buffer)[:, None])
        moving = kept + working + 2 * held.gather_window + reduced
        step = np.maximum(static["step"] + held.step_window, static["flat"])
        # what tensors occupy peaks in the passes or in the update; room that is kept apart for gradients is theirs in the update
        passing = moving >= step + late + apart
        reserved = held.peak_bytes(kept + working) - held.static + static["flat"] + static["unplaced"] + apart
        slack = np.maximum(0.0, reserved - np.maximum(moving, step + late + apart))  # a difference of large sums
        constants, nodes = self.times.constants, [times.node for times in self._times_of_ranks]
        received = float(receive_buffer_bytes(self.model, self.training, Candidates.of(self.plan))[0])
        communicators = [float(communicator_bytes(Candidates.of(self.plan), node, constants)[0]) for node in nodes]
        return [
            MemoryBytes(
                parameters=static["parameters"][rank],
                gathered_parameters=static["gathered"][rank] + 2 * held.gather_window[rank] * passing[rank],
                gradients=summed[rank] + (late[rank] + apart[rank]) * (not passing[rank]),
                optimizer_state=static["optimizer_state"][rank],
                optimizer_step=step[rank] * (not passing[rank]),
                activations=(kept[rank] + working[rank] - logits[rank]) * passing[rank],
                logits=logits[rank] * passing[rank] + static["outputs"][rank],
                communication_buffers=reduced[rank] * passing[rank] + received,
                allocator_slack=slack[rank],
                communicators=communicators[rank],
                context=context_bytes(nodes[rank], constants, self.training.software),
            )
            for rank in range(pp)
        ]

    def _kept_and_summed(self, gradients: Array) -> tuple[Array, Array]:
        """(pp,) each: bytes of the activations and of the gradients that each rank keeps in its passes, when both together are most.

        `gradients` (pp,): those of all stages. Stages of torch's own pipelines have summed gradients from their first backward pass on. The
        planner counts them over the whole step, so its plans may need less than it says.
        """
        plan, each = self.plan, self.activation_bytes_per_stage()
        shape = (plan.schedule, plan.mesh.pp, plan.microbatches)
        software = self.training.software
        if (
            software.defers_reduction
            and plan.microbatches > 1
            and plan.mesh.pp > 1
            and not splits_backward(plan.schedule)
        ):
            sums = self._per_rank(self.sums.total(Rows.of(self.sums.tables.static.gradients)[:, None]))
            kept, early = self._per_rank(each), software.reduces_by_stage and plan.mesh.data_ranks > 1
            moments = summed_moments(*shape[:2], plan.stages_per_rank, plan.microbatches, reduces_by_stage=early)
            found = np.array(
                [
                    max(zip(one.alive @ kept[:, rank], one.summed @ sums[:, rank], strict=True), key=sum)
                    for rank, one in enumerate(moments)
                ]
            )
            return found[:, 0], found[:, 1]
        kept = peak_activation_bytes(*shape, each, self.postponed_bytes_per_stage())
        return kept + waiting_bytes(plan.vocabulary_parallel, *shape, each), gradients

    def _host_bytes(self) -> Array:
        """(pp,): bytes of each rank on its host."""
        plan = self.plan
        kept = self.sums.host_activations(plan.schedule, plan.mesh.pp, plan.microbatches, plan.vocabulary_parallel)
        return self._held(self.sums.rows.host) + kept

    def _held_bytes(self) -> HeldBytes:
        """Bytes that each rank holds beside activations, (pp,) each."""
        rows = self.sums.rows
        return HeldBytes(
            static=self._held(rows.static),
            step=self._held(rows.step),
            gather_window=self._largest(rows.gather_window),
            reduce_buffer=self._largest(rows.reduce_buffer),
            step_window=self._largest(rows.step_window),
            slack=rows.slack.max(),
        )

    def _held(self, values: Rows) -> Array:
        """(pp,): the sum of `values` over all rows of each rank."""
        return np.asarray(self._per_rank(self.sums.total(values)).sum(axis=0))

    def _largest(self, values: Rows) -> Array:
        """(pp,): the largest of `values` among the rows of each rank."""
        return self.sums.largest(values, self.plan.schedule, self.plan.mesh.pp)

    def _logit_bytes(self, kept: Array, working: Array) -> Array:
        """(pp,): the head's share of the kept and working bytes on each rank that holds any of it."""
        plan, rows, shares = self.plan, self.sums.rows, self.sums.ends[..., 1].sum(axis=0)
        logits = peak_activation_bytes(plan.schedule, len(kept), plan.microbatches, rows.activation.last[0, 0] * shares)
        in_loss = rows.working.last[0, 0] * self._per_rank(shares).sum(axis=0)
        return np.asarray(np.minimum(logits + np.where(in_loss >= working, in_loss, 0.0), kept + working))


def _overlapped(causes: Mapping[str, float]) -> dict[str, float]:
    """The shares of two causes in what overlapped passes save: each by its seconds."""
    network = {cause: causes[cause] for cause in ("tensor_parallel", "expert_parallel")}
    return {cause: seconds / (sum(network.values()) or 1.0) for cause, seconds in network.items()}


def _distinct(times: Iterable[OpTimes]) -> list[OpTimes]:
    return list({id(each): each for each in times}.values())


def around(intervals: Sequence[Interval]) -> Interval:
    """Return the smallest interval that holds all these, of one level."""
    low, high = min(each.low for each in intervals), max(each.high for each in intervals)
    return Interval(level=intervals[0].level, low=low, high=high)
