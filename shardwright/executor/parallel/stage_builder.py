"""Applies a plan to one stage, in this order: initial weights, tensor parallelism, recomputation, sharding."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from shardwright.costmodel import PlanFile
from shardwright.executor.adapters import InitialAdapters, attach_adapters, freeze, quantise, trains_path
from shardwright.executor.context import SequencePieces, divide_linear_attention, lower_decays, take_in_turn
from shardwright.executor.experts import SpreadRanks, experts_paths, spread_experts
from shardwright.executor.low_precision import Scaling, scales_layer
from shardwright.executor.model import (
    GATHER_SEQUENCE,
    SUM_GRADIENTS,
    MeshRanks,
    Skeleton,
    StageModule,
    called_children,
    divide_embedding,
    divide_head,
    divide_layer,
    enter_first_layer,
    flatten_experts,
    layer_division,
    leave_last_layer,
    materialise,
    materialise_buffers,
    replicate,
    unfuse,
)
from shardwright.executor.offload import streamed_layers
from shardwright.executor.passes import TokenLoss, compute_loss_in_head
from shardwright.executor.recompute import Repetition

from .compiled import compile_layer
from .data_parallel import DataParallel
from .precision import COMPUTE_DTYPES


@dataclass(frozen=True)
class StageBuilder:
    """Builds the stages of one rank, one layer at a time, so that never more than one layer is held unsharded."""

    plan_file: PlanFile
    skeleton: Skeleton
    mesh: DeviceMesh
    data_parallel: DataParallel
    device: torch.device
    seed: int
    loss: TokenLoss
    positions: Tensor | None = None
    pieces: SequencePieces | None = None
    """Of sequences over cp, for recurrent layers."""
    expert_mesh: DeviceMesh | None = None
    compile_layers: bool = False
    draw: bool = True
    source: nn.Module | None = None
    """A model of the same class whose weights are taken, in place of initial ones."""
    adapters: InitialAdapters | None = None
    scaling: Scaling | None = None
    """Of linears in 8 bits."""

    def build(self, stage_index: int) -> StageModule:
        """Build stage `stage_index` of the plan with this rank's part of its initial weights."""
        plan = self.plan_file.plan
        first_layer = sum(stage.layer_count for stage in plan.stages[:stage_index])
        strategies = list(plan.stages[stage_index].each_layer())
        stage = StageModule(
            self.skeleton,
            first_layer,
            strategies,
            seq_len=self.plan_file.training.seq_len // plan.mesh.cp,
            positions=self.positions,
        )
        trainable = self.plan_file.training.trainable
        if trainable.kind == "layers":
            stage.trains_below = first_layer > plan.layer_count - trainable.layers
        streams = streamed_layers(len(strategies), plan.offload.parameter_fraction)
        numbered = enumerate(zip(stage.layer_paths, strategies, streams, strict=True), first_layer)
        for index, (path, strategy, streamed) in numbered:
            layer = stage.get_submodule(path)
            self._materialise(layer, path)
            unfuse(layer, self.skeleton.config)
            lower_decays(layer, COMPUTE_DTYPES[self.plan_file.training.precision.compute])
            self._freeze(layer, path)
            if trainable.base == "nf4":
                quantise(layer)
            if self.scaling is not None and scales_layer(
                index, plan.layer_count, self.plan_file.training.high_precision_layers
            ):
                self.scaling.over(layer)
            if self.adapters is not None:
                attach_adapters(layer, path, trainable, self.adapters)
            self._spread_experts(layer)
            if self.pieces is not None:
                divide_linear_attention(layer, self.pieces)
            repetition = Repetition.of(self.plan_file.training, strategy.recompute)
            self._divide_layer(layer, repetition)
            repetition.around(layer)
            if self.plan_file.training.sequence_chunks > 1:
                take_in_turn(layer, self.plan_file.training.sequence_chunks)
            if self.compile_layers:
                compile_layer(layer)
            if self.expert_mesh is not None:
                for inner in experts_paths(layer):
                    self.data_parallel.shard_experts(layer.get_submodule(inner), zero_stage=strategy.zero_stage)
            self.data_parallel.shard(layer, zero_stage=strategy.zero_stage, streamed=streamed)
        self._build_buffers(stage)
        self._build_ends(stage)
        self.data_parallel.shard(stage, zero_stage=plan.zero_stage, keeps=True)
        return stage

    @cached_property
    def _ranks(self) -> MeshRanks | None:
        return MeshRanks(self.mesh["tp"]) if self.plan_file.plan.mesh.tp > 1 else None

    @property
    def _sequence_parallel(self) -> bool:
        return self.plan_file.plan.sequence_parallel and self.plan_file.plan.mesh.tp > 1

    def _freeze(self, part: nn.Module, path: str) -> None:
        """Freeze the weights at `path` of the model, unless they are trained."""
        training, structure = self.plan_file.training, self.skeleton.structure
        count = self.plan_file.plan.layer_count
        if not trains_path(path, training.trainable, layers=structure.layers, layer_count=count, after=structure.after):
            freeze(part, COMPUTE_DTYPES[training.precision.compute])
            if training.trainable.kind == "layers":
                vars(part)["gradient_checkpointing"] = False  # no backward pass reaches it, so that nothing runs again

    def _spread_experts(self, layer: nn.Module) -> None:
        if self.expert_mesh is None:
            return
        mesh = self.plan_file.plan.mesh
        spread = self.expert_mesh["ep", "etp"] if mesh.expert_tp > 1 else self.expert_mesh["ep"]
        place = self._ranks.rank // mesh.expert_tp if self._ranks else 0
        ranks = SpreadRanks(
            experts=MeshRanks(self.expert_mesh["ep"]),
            mesh=spread,
            tokens=(place, mesh.tp // mesh.expert_tp),
            gradient_factor=mesh.same_experts / mesh.data_ranks,
            per_centroid=self.plan_file.training.tokens_per_centroid,
        )
        for path in experts_paths(layer):
            spread_experts(layer.get_submodule(path), ranks)

    def _divide_layer(self, layer: nn.Module, repetition: Repetition) -> None:
        skeleton = self.skeleton
        if self._ranks is None:
            flatten_experts(layer)
            for region in called_children(layer).values():
                repetition.within(region, 1)
            return
        division = layer_division(skeleton.model, layer, skeleton.structure.layers, skeleton.name)
        divide_layer(layer, division, self._ranks, sequence_parallel=self._sequence_parallel, within=repetition.within)

    def _build_buffers(self, stage: StageModule) -> None:
        """Build what has no parameters: rotary tables."""
        own = (*stage.layer_paths, *self.skeleton.structure.before, *self.skeleton.structure.after)
        for path, module in stage.named_modules():
            if not any(path == part or path.startswith(f"{part}.") for part in own):
                materialise_buffers(module, model=self.skeleton.model, device=self.device)

    def _build_ends(self, stage: StageModule) -> None:
        """Build embedding, final norm and head. Untied, embedding and head are
        sharded separately; tied, with the root."""
        structure, zero_stage = self.skeleton.structure, self.plan_file.plan.zero_stage
        before = [part for path in structure.before if (part := self._built(stage, path)) is not None]
        after = [part for path in structure.after if (part := self._built(stage, path)) is not None]
        embedding, head = stage.part(structure.embedding), stage.part(structure.head)
        if head is not None and self.skeleton.tied:
            if embedding is None:  # the last of several stages: its own copy of the embedding
                original = self.skeleton.model.get_submodule(structure.embedding)
                self._materialise(original, structure.embedding)
                self._freeze(original, structure.embedding)
                head.weight = original.weight
            else:
                head.weight = embedding.weight
        if head is not None and self.loss.chunks > 1:
            compute_loss_in_head(head, self.loss, self.skeleton.config)
        self._divide_ends(stage, before, after)
        if self.skeleton.tied:
            if head is not None and embedding is not None:
                head.weight = embedding.weight  # tensor parallelism made a new parameter
            return
        if embedding is not None:
            self.data_parallel.shard(embedding, zero_stage=zero_stage)
        if after:
            # the backward pass begins with these: if they were freed after the forward, it would gather them again at
            # once
            self.data_parallel.shard(after, zero_stage=zero_stage, keeps=True)

    def _built(self, stage: StageModule, path: str) -> nn.Module | None:
        """Return a part of this stage around its layers, with its initial weights."""
        part = stage.part(path)
        if part is not None and not (self.skeleton.tied and path == self.skeleton.structure.head):
            self._materialise(part, path)
            self._freeze(part, path)
        return part

    def _divide_ends(self, stage: StageModule, before: list[nn.Module], after: list[nn.Module]) -> None:
        ranks, structure = self._ranks, self.skeleton.structure
        if ranks is None:
            return
        embedding, head = stage.part(structure.embedding), stage.part(structure.head)
        for part in before:
            if part is embedding:
                divide_embedding(part, ranks)
            else:
                replicate(part, ranks, partial=False)
        if before and self._sequence_parallel:
            enter_first_layer(stage.get_submodule(stage.layer_paths[0]), ranks)
        for part in after:
            if part is not head:
                replicate(part, ranks, partial=self._sequence_parallel)
        if head is None:
            return
        if not self._sequence_parallel:
            divide_head(head, ranks, given=SUM_GRADIENTS)
        elif structure.divides_sequence:
            divide_head(head, ranks, given=GATHER_SEQUENCE)
        else:
            divide_head(head, ranks, given=None)
            leave_last_layer(stage.get_submodule(stage.layer_paths[-1]), ranks)

    def _materialise(self, module: nn.Module, path: str) -> None:
        materialise(module, name=path, model=self.skeleton.model, seed=self.seed, device=self.device, draw=self.draw)
        if self.source is not None:
            module.load_state_dict(self.source.get_submodule(path).state_dict())
