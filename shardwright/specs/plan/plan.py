"""The plan: every choice for a run, and the file that carries it."""

from typing import Literal, Self, get_args

from pydantic import (
    ModelWrapValidatorHandler,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from shardwright.base import divisors, listed
from shardwright.specs.mesh import Mesh
from shardwright.specs.schedules import ScheduleName, check_shape, skips_stages, splits_backward, stage_ranks
from shardwright.specs.spec import PositiveInt, Spec

from .offload import Offload
from .stage import PLAIN_STRATEGIES, Replicas, Stage, Strategy, ZeroStage, strategies_of
from .sync import Sync

ContextParallel = Literal["all-gather", "ring", "ulysses", "ulysses-ring"]
ExpertDispatch = Literal["all-to-all", "deduplicated"]
VocabularyParallel = Literal["none", "vocab-1", "vocab-2", "interlaced"]
CONTEXT_PARALLEL: tuple[ContextParallel, ...] = get_args(ContextParallel)
EXPERT_DISPATCH: tuple[ExpertDispatch, ...] = get_args(ExpertDispatch)
VOCABULARY: tuple[VocabularyParallel, ...] = get_args(VocabularyParallel)


class Plan(Spec):
    """All choices for a run. A plan is valid in itself; `check_plan` checks it against a model and a cluster.

    `stages[i]` runs on pipeline rank `stage_ranks[i]`. `micro_batch` counts sequences per microbatch per data-parallel
    rank, `microbatches` counts microbatches per step per data-parallel rank.

    `context_parallel` is how attention over `cp` ranks sees the whole sequence:

    - "all-gather": each rank gathers all keys and values (Llama 3, arXiv 2407.21783, section 3.3.2). It is the default,
      because torch does the same and it suits every mask.
    - "ring": ranks pass keys and values around beside the attention of the block before (Liu et al. 2023, arXiv 2310.01889).
    - "ulysses": a rank trades its tokens of all heads for all tokens of its heads (Jacobs et al. 2023, arXiv 2309.14509).

    - "ulysses-ring": `ulysses_degree` neighbouring ranks trade heads, and rings across these groups pass keys and values on
      (Fang & Zhao 2024, arXiv 2405.07719; Megatron-Core's a2a+p2p).

    All but Ulysses alone deal the sequence in zig-zag, so that each rank has an equal part of the causal triangle.

    `expert_dispatch` is how tokens travel to their experts. "all-to-all" sends a copy to each expert. "deduplicated" sends
    one copy to each node, and then to each rank, that holds any of them (Zhao et al. 2025, DeepEP).

    `vocabulary_parallel`: unless "none", all ranks of the pipeline hold an equal part of the vocabulary and compute it for
    every microbatch, in place of the first rank's embedding and the last rank's head (Yeung et al. 2024, arXiv 2411.05288):

    - "vocab-1" and "vocab-2" are that paper's algorithms 1 and 2, with two barriers and one barrier in the loss.
    - "interlaced" stops every rank for the vocabulary of each microbatch, as for a tensor-parallel layer (Lin et al. 2024, nnScaler).

    `waiting_microbatches` of the cost model says how many more microbatches each keeps in flight.

    `sync` is how replicas agree on their weights: exactly, or by an approximation (`approximate`).

    `replicas`, on a mixed cluster: data parallelism reaches over its groups, one item for each in their order. `mesh.dp_replicate`
    then counts the replicas of all groups, and each replica lies inside one of them. All have the same mesh, schedule and
    ZeRO stage, and the groups' batches and stages may differ; `micro_batch`, `microbatches` and `stages` are those of the first group.
    """

    mesh: Mesh
    micro_batch: PositiveInt
    microbatches: PositiveInt
    schedule: ScheduleName = "1f1b"
    stages: tuple[Stage, ...]
    sequence_parallel: bool = True
    context_parallel: ContextParallel = "all-gather"
    ulysses_degree: PositiveInt = 1
    expert_dispatch: ExpertDispatch = "all-to-all"
    vocabulary_parallel: VocabularyParallel = "none"
    offload: Offload = Offload()
    sync: Sync = Sync()
    replicas: tuple[Replicas, ...] = ()

    def of_group(self, index: int) -> "Plan":
        """Return the plan of the replicas in one group, as on a cluster of that group alone.

        Raises:
            ValueError: the group's batch or stages do not go with the mesh and the schedule.
        """
        group = self.replicas[index]
        mesh = self.mesh.model_copy(update={"dp_replicate": group.count})
        own = {"micro_batch": group.micro_batch, "microbatches": group.microbatches, "stages": group.stages}
        alone = Plan(**{**dict(self), "mesh": mesh, "replicas": (), "sync": Sync(), **own})
        return alone.model_copy(update={"sync": self.sync})  # which may be with replicas in other groups alone

    @property
    def by_group(self) -> "tuple[Plan, ...]":
        """The plan of each group that has replicas, or this plan alone."""
        return tuple(self.of_group(index) for index in range(len(self.replicas))) or (self,)

    def _check_ulysses(self) -> None:
        """Refuse a degree that splits no ring.

        Raises:
            ValueError: names the degrees that do.
        """
        cp, degree = self.mesh.cp, self.ulysses_degree
        if self.context_parallel != "ulysses-ring":
            if degree != 1:
                raise ValueError(
                    f"ulysses_degree {degree} belongs to context_parallel 'ulysses-ring', and that is '{self.context_parallel}'; "
                    "set 'ulysses-ring', or leave ulysses_degree out"
                )
            return
        allowed = [other for other in divisors(cp) if 1 < other < cp]
        if degree not in allowed and (cp, degree) != (1, 1):
            which = f"set one of {listed(allowed)}" if allowed else "set 'ring' or 'ulysses'"
            raise ValueError(
                f"context_parallel 'ulysses-ring' with ulysses_degree {degree} splits no ring of cp {cp}; {which}"
            )

    @property
    def approximate(self) -> bool:
        """Whether the plan changes gradients or updates on purpose: between replicas (`Sync`), or by microbatches that leave out stages."""
        return self.sync.approximate or skips_stages(self.schedule)

    @property
    def stages_per_rank(self) -> int:
        return len(self.stages) // self.mesh.pp

    @property
    def stage_ranks(self) -> list[int]:
        """The pipeline rank of each stage."""
        return stage_ranks(self.schedule, self.mesh.pp, len(self.stages))

    @property
    def layer_count(self) -> int:
        return sum(stage.layer_count for stage in self.stages)

    @property
    def global_batch(self) -> int:
        """Sequences per step over all ranks."""
        if self.replicas:
            per_rank = sum(group.count * group.micro_batch * group.microbatches for group in self.replicas)
            return self.mesh.dp_shard * per_rank
        return self.mesh.dp * self.micro_batch * self.microbatches

    @property
    def strategies(self) -> tuple[Strategy, ...]:
        """The plain strategies, and then those of its layers that offload activations."""
        return strategies_of(self.stages)

    @property
    def activation_place(self) -> str:
        """Where the layers' activations are between their passes: empty on the device, else `in 36 of 80 layers in part on the host`."""
        stages = [stage for one in self.by_group for stage in one.stages]
        shares = [layer.activation_offload for stage in stages for layer in stage.each_layer()]
        some = sum(share > 0 for share in shares)
        if not some:
            return ""
        mean = sum(shares) / some
        much = "on the host" if mean == 1 else f"{100 * mean:.3g}% on the host"
        return much if some == len(shares) else f"in {some} of {len(shares)} layers {much}"

    @property
    def mtp_stage(self) -> int | None:
        """The stage that holds the multi-token prediction layers, where the plan says one."""
        return next((index for index, stage in enumerate(self.stages) if stage.mtp_layers), None)

    @property
    def zero_stage(self) -> ZeroStage:
        """The highest ZeRO stage of any layer; the embedding and the head follow it."""
        return max(run.zero_stage for stage in self.stages for run in stage.layers)

    @field_validator("vocabulary_parallel", mode="before")
    @classmethod
    def _named(cls, given: object) -> object:
        """Earlier versions wrote the number of barriers."""
        return ("none", "vocab-2", "vocab-1")[given] if isinstance(given, int) and 0 <= given <= 2 else given

    @model_serializer(mode="wrap")
    def _says_approximate(self, plain: SerializerFunctionWrapHandler) -> dict[str, object]:
        """A file of an approximate plan says so."""
        data: dict[str, object] = plain(self)
        return data | ({"approximate": True} if self.approximate else {})

    @model_validator(mode="wrap")
    @classmethod
    def _means_what_it_says(cls, data: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not (isinstance(data, dict) and "approximate" in data):
            return handler(data)
        plan = handler({name: value for name, value in data.items() if name != "approximate"})
        if data["approximate"] is not plan.approximate:
            says = str(data["approximate"]).lower()
            skips = f", and schedule {plan.schedule} leaves out stages" if skips_stages(plan.schedule) else ""
            raise ValueError(
                f"approximate is {says} and sync is {plan.sync}{skips}; set approximate to {str(plan.approximate).lower()}, or change "
                f"{'the schedule' if skips else 'sync'}"
            )
        return plan

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        mesh, count = self.mesh, len(self.stages)
        if mesh.ep > 1 and mesh.tp > 1 and not self.sequence_parallel:
            raise ValueError(
                f"ep {mesh.ep} with tp {mesh.tp} and no sequence_parallel would send every token {mesh.tp} times; set sequence_parallel"
            )
        check_shape(self.schedule, mesh.pp, len(self.stages), self.microbatches)
        self._check_ulysses()
        if self.vocabulary_parallel != "none" and mesh.pp == 1:
            raise ValueError(
                f"vocabulary_parallel '{self.vocabulary_parallel}' splits embedding and head over the ranks of a pipeline, and pp is 1; "
                "leave it out, or set pp to 2 or more"
            )
        if self.vocabulary_parallel == "interlaced" and splits_backward(self.schedule):
            raise ValueError(
                f"vocabulary_parallel 'interlaced' stops the ranks of 1F1B, not those of {self.schedule}; set 'vocab-1' or 'vocab-2', or schedule '1f1b'"
            )
        for index, stage in enumerate(self.stages):
            if not stage.layers and not stage.mtp_layers and (count == 1 or 0 < index < count - 1):
                raise ValueError(
                    f"stage {index} holds no layer; only the first and the last of several may, with the embedding and the head"
                )
            for run in stage.layers:
                if mesh.dp_shard > 1 if run.zero_stage == 0 else mesh.shard_ranks == 1:
                    raise ValueError(
                        f"stage {index} has zero_stage {run.zero_stage} with dp_shard {mesh.dp_shard}{f' x cp {mesh.cp}' if mesh.cp > 1 else ''}; "
                        "ZeRO stages 1 to 3 need dp_shard x cp of 2 or more, 0 needs dp_shard 1"
                    )
        self._check_prediction()
        self._check_offload()
        self._check_replicas()
        self._check_sync()
        if skips_stages(self.schedule) and (self.vocabulary_parallel != "none" or self.replicas):
            what = (
                f"vocabulary_parallel '{self.vocabulary_parallel}'"
                if not self.replicas
                else "replicas in several groups"
            )
            raise ValueError(
                f"schedule {self.schedule} leaves out stages and does not go with {what}; set schedule '1f1b'"
            )
        if splits_backward(self.schedule) and len(self.strategies) > len(PLAIN_STRATEGIES):
            raise ValueError(
                f"activation_offload brings activations back for a whole backward, and schedule {self.schedule} splits it; set "
                "activation_offload to 0, or schedule '1f1b'"
            )
        return self

    def _check_replicas(self) -> None:
        """Refuse replicas that do not add up to dp_replicate, or are not of one kind."""
        if not self.replicas:
            return
        counts, first = [group.count for group in self.replicas], self.replicas[0]
        if len(counts) == 1:
            raise ValueError("replicas are of several groups, and there is one item; leave it out")
        if sum(counts) != self.mesh.dp_replicate:
            raise ValueError(
                f"replicas count {' + '.join(map(str, counts))} = {sum(counts)}, and mesh.dp_replicate is {self.mesh.dp_replicate}; "
                f"set dp_replicate to {sum(counts)}"
            )
        for name in ("micro_batch", "microbatches", "stages"):
            if getattr(self, name) != getattr(first, name):
                raise ValueError(f"{name} differs from that of the first of replicas, whose {name} it repeats")
        zeros = [self.of_group(index).zero_stage for index in range(len(counts))]
        if len(set(zeros)) > 1:
            raise ValueError(
                f"replicas have ZeRO stages {listed(zeros)}; give all groups one, so that their shards match"
            )

    def _check_sync(self) -> None:
        """Refuse approximations without replicas, or where what lies inside a replica is not sharded."""
        mesh, method = self.mesh, self.sync.method
        if method == "exact":
            return
        if mesh.dp_replicate == 1:
            raise ValueError(
                f"sync '{method}' is between replicas, and dp_replicate is 1; set it to 2 or more, or leave sync out"
            )
        for axis in ("cp", "ep"):
            if getattr(mesh, axis) > 1 and not self.zero_stage:
                raise ValueError(
                    f"sync '{method}' with {axis} {getattr(mesh, axis)} needs zero_stage 1 or more, so that a replica is one copy of the "
                    "weights; set zero_stage, or leave sync out"
                )
        if self.offload.optimizer_fraction:
            raise ValueError(
                f"sync '{method}' needs the whole optimizer on the device, and optimizer_fraction is {self.offload.optimizer_fraction:g}; "
                "set that to 0, or leave sync out"
            )

    def _check_offload(self) -> None:
        """Refuse gradients and weights on the host where data-parallel ranks share them otherwise."""
        ranks = self.mesh.data_ranks
        if self.offload.gradient_fraction and ranks > 1:
            raise ValueError(
                f"gradient_fraction {self.offload.gradient_fraction:g} is for one data-parallel rank, and there are {ranks}; leave it out, "
                "or use zero_stage 2 or 3, which keep a shard of the gradients"
            )
        if (
            self.offload.parameter_fraction
            and ranks > 1
            and any(s.zero_stage == 3 for t in self.stages for s in t.layers)
        ):
            raise ValueError(
                f"parameter_fraction {self.offload.parameter_fraction:g} is for weights that every rank holds, and zero_stage 3 shards them; "
                "leave it out, or set zero_stage to 2 or less"
            )

    def _check_prediction(self) -> None:
        """Refuse multi-token prediction layers on several stages, or in front of a layer."""
        places = [index for index, stage in enumerate(self.stages) if stage.mtp_layers]
        if len(places) > 1:
            raise ValueError(f"stages {listed(places)} hold mtp_layers; put all on one of them")
        behind = [index for index, stage in enumerate(self.stages) if places and index > places[0] and stage.layers]
        if behind:
            raise ValueError(
                f"stage {behind[0]} holds layers behind the mtp_layers of stage {places[0]}; put these on stage {behind[-1]} or later"
            )

    def differences(self, other: "Plan") -> list[str]:
        """One readable line for each choice in which `other` differs from this plan; empty when they are equal."""
        mine, theirs = _flat(self.model_dump()), _flat(other.model_dump())
        return [
            f"{key}: {mine.get(key, 'absent')} -> {theirs.get(key, 'absent')}"
            for key in sorted(mine.keys() | theirs.keys())
            if mine.get(key, "absent") != theirs.get(key, "absent")
        ]


def _flat(value: object, prefix: str = "") -> dict[str, object]:
    if isinstance(value, dict):
        items = [(f"{prefix}.{key}" if prefix else str(key), inner) for key, inner in value.items()]
    elif isinstance(value, (list, tuple)):
        items = [(f"{prefix}[{index}]", inner) for index, inner in enumerate(value)]
    else:
        return {prefix: value}
    return {key: leaf for name, inner in items for key, leaf in _flat(inner, name).items()}
