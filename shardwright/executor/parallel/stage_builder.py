"""Applies a plan to one stage, in this order: initial weights, tensor parallelism, recomputation, sharding."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ParallelStyle
from torch.distributed.tensor.placement_types import Placement

from shardwright.costmodel import PlanFile
from shardwright.executor.model import (
    Skeleton,
    StageModule,
    divide,
    materialise,
    recompute_core,
    replicated,
    stream_layout,
    unfuse,
    vocabulary_parallel_embedding,
    vocabulary_parallel_head,
)

from .data_parallel import DataParallel


@dataclass(frozen=True)
class StageBuilder:
    """Builds the stages of one rank, one layer at a time, so that never more than one layer is held unsharded."""

    plan_file: PlanFile
    skeleton: Skeleton
    mesh: DeviceMesh
    data_parallel: DataParallel
    device: torch.device
    seed: int

    def build(self, stage_index: int) -> StageModule:
        """Build stage `stage_index` of the plan with this rank's part of its initial weights."""
        plan = self.plan_file.plan
        first_layer = sum(stage.layer_count for stage in plan.stages[:stage_index])
        strategies = list(plan.stages[stage_index].each_layer())
        stage = StageModule(self.skeleton, first_layer, strategies, seq_len=self.plan_file.training.seq_len)
        family = self.skeleton.family
        for path, strategy in zip(stage.layer_paths, strategies, strict=True):
            layer = stage.get_submodule(path)
            self._materialise(layer, path)
            unfuse(layer, tp=plan.mesh.tp)
            self._divide(layer, family.layer_rules(self._stream))
            if strategy.recompute == "selective":
                recompute_core(layer.get_submodule(family.attention), family)
            self.data_parallel.shard(layer, zero_stage=strategy.zero_stage)
        self._build_ends(stage)
        self.data_parallel.shard(stage, zero_stage=0)
        return stage

    @property
    def _stream(self) -> Placement:
        return stream_layout(sequence_parallel=self.plan_file.plan.sequence_parallel)

    def _build_ends(self, stage: StageModule) -> None:
        """Build embedding, final norm and head. Untied, embedding and head are
        sharded separately; tied, with the root."""
        family, zero_stage = self.skeleton.family, self.plan_file.plan.zero_stage
        if rotary := stage.part(family.rotary):
            self._materialise(rotary, family.rotary)
        embedding, positions = stage.part(family.embedding), stage.part(family.positions)
        norm, head = stage.part(family.final_norm), stage.part(family.head)
        if embedding is not None:
            self._materialise(embedding, family.embedding)
            self._divide(embedding, vocabulary_parallel_embedding(self._stream))
        if positions is not None:
            self._materialise(positions, family.positions)
            self._divide(positions, replicated(self._stream, given=Replicate()))
        if norm is not None and head is not None:
            self._materialise(norm, family.final_norm)
            self._divide(norm, replicated(self._stream))
            self._build_head(head, embedding)
        if self.skeleton.tied:
            return
        if embedding is not None:
            self.data_parallel.shard(embedding, zero_stage=zero_stage)
        if norm is not None and head is not None:
            # the backward pass begins with these: if they were freed after the forward, it would gather them again at
            # once
            self.data_parallel.shard([norm, head], zero_stage=min(zero_stage, 2))

    def _build_head(self, head: nn.Module, embedding: nn.Module | None) -> None:
        family = self.skeleton.family
        if not self.skeleton.tied:
            self._materialise(head, family.head)
        elif embedding is None:  # the last of several stages: its own copy of the embedding
            original = self.skeleton.model.get_submodule(family.embedding)
            self._materialise(original, family.embedding)
            head.weight = original.weight
        else:
            head.weight = embedding.weight
        self._divide(head, vocabulary_parallel_head(self._stream))
        if self.skeleton.tied and embedding is not None:
            head.weight = embedding.weight  # tensor parallelism made a new parameter

    def _materialise(self, module: nn.Module, path: str | None) -> None:
        assert path is not None
        materialise(module, name=path, model=self.skeleton.model, seed=self.seed, device=self.device)

    def _divide(self, module: nn.Module, styles: ParallelStyle | Mapping[str, ParallelStyle]) -> None:
        if self.plan_file.plan.mesh.tp > 1:
            divide(module, self.mesh["tp"], styles)
