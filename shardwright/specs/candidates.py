"""The global choices of many plans as arrays: one expression serves one plan or a million."""

from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from shardwright.base import IntArray

from .choices import COLUMNS
from .cluster import NodeGroup
from .mesh import Degrees, RankGroup
from .plan import Plan


@dataclass(frozen=True)
class Candidates(Degrees[IntArray]):
    """N combinations of the choices that hold for a whole run; every field has shape (N,).

    `stages_per_rank` counts pipeline chunks on a rank. `offload_optimizer` is 1 where the optimizer lives on the host.
    `context_parallel` indexes `CONTEXT_PARALLEL`, `expert_dispatch` indexes `EXPERT_DISPATCH`. The axes of context and of
    experts are optional; without them no candidate has these axes.
    """

    pp: IntArray
    dp_replicate: IntArray
    dp_shard: IntArray
    tp: IntArray
    micro_batch: IntArray
    microbatches: IntArray
    stages_per_rank: IntArray
    zero_stage: IntArray
    sequence_parallel: IntArray
    offload_optimizer: IntArray
    cp: IntArray = field(default_factory=lambda: np.array(1))
    ep: IntArray = field(default_factory=lambda: np.array(1))
    etp: IntArray = field(default_factory=lambda: np.array(0))
    context_parallel: IntArray = field(default_factory=lambda: np.array(0))
    expert_dispatch: IntArray = field(default_factory=lambda: np.array(0))

    def __post_init__(self) -> None:
        for name in ("cp", "ep", "etp", "context_parallel", "expert_dispatch"):
            object.__setattr__(self, name, np.broadcast_to(getattr(self, name), self.pp.shape))

    @classmethod
    def of(cls, plan: Plan) -> "Candidates":
        """The candidate of `plan`; the highest ZeRO stage of its layers stands for all layers."""
        values = {choice.name: choice.number(choice.of_plan(plan) or 0) for choice in COLUMNS if not choice.values}
        named = {choice.name: choice.number(choice.of_plan(plan)) for choice in COLUMNS if choice.values}
        every = values | named | {"microbatches": plan.microbatches}
        return cls(**{name: np.array([value]) for name, value in every.items()})

    def __len__(self) -> int:
        return len(self.pp)

    def __getitem__(self, index: int | slice | NDArray[np.int64] | NDArray[np.bool_]) -> "Candidates":
        """The candidates at `index`, always as arrays."""
        return Candidates(**{f.name: np.atleast_1d(getattr(self, f.name)[index]) for f in fields(self)})

    @property
    def shards(self) -> IntArray:
        """Ranks that share one copy of the sharded state: 1 without ZeRO."""
        return np.where(self.zero_stage > 0, self.shard_ranks, 1)

    @property
    def replicas(self) -> IntArray:
        """Copies of the sharded state."""
        return np.asarray(self.data_ranks // self.shards)

    @property
    def expert_shards(self) -> IntArray:
        """Ranks that share one copy of the sharded state of the same experts."""
        return np.where(self.zero_stage > 0, self.expert_shard_ranks, 1)

    @property
    def expert_replicas(self) -> IntArray:
        """Copies of the sharded state of an expert."""
        return np.asarray(self.same_experts // self.expert_shards)


def tp_group(candidates: Candidates, node: NodeGroup) -> RankGroup:
    """Neighbouring ranks."""
    return _group(np.ones_like(candidates.tp), candidates.tp, node)


def cp_group(candidates: Candidates, node: NodeGroup) -> RankGroup:
    """Ranks that share the sequences of one data-parallel rank, `tp` apart."""
    return _group(candidates.tp, candidates.cp, node)


def shard_group(candidates: Candidates, node: NodeGroup) -> RankGroup:
    """Ranks that hold the shards of one parameter, `tp` apart."""
    return _group(candidates.tp, candidates.shards, node)


def replicate_group(candidates: Candidates, node: NodeGroup) -> RankGroup:
    """Ranks that hold the same shard, `tp * shards` apart."""
    return _group(candidates.tp * candidates.shards, candidates.replicas, node)


def expert_tp_group(candidates: Candidates, node: NodeGroup) -> RankGroup:
    """Neighbouring ranks that split the same experts."""
    return _group(np.ones_like(candidates.tp), candidates.expert_tp, node)


def ep_group(candidates: Candidates, node: NodeGroup) -> RankGroup:
    """Ranks that hold different experts and trade tokens, `expert_tp` apart."""
    return _group(candidates.expert_tp, candidates.ep, node)


def expert_shard_group(candidates: Candidates, node: NodeGroup) -> RankGroup:
    """Ranks that hold the shards of the same expert."""
    return _group(candidates.expert_tp * candidates.ep, candidates.expert_shards, node)


def expert_replicate_group(candidates: Candidates, node: NodeGroup) -> RankGroup:
    """Ranks that hold the same shard of the same expert."""
    stride = candidates.expert_tp * candidates.ep * candidates.expert_shards
    return _group(stride, candidates.expert_replicas, node)


def pipeline_group(candidates: Candidates, node: NodeGroup) -> RankGroup:
    """Two ranks of neighbouring stages; all ranks of a node send at once."""
    per_stage = candidates.ranks // candidates.pp
    return _group(per_stage, np.minimum(candidates.pp, 2), node)


def stages_group(candidates: Candidates, node: NodeGroup) -> RankGroup:
    """All ranks of one pipeline."""
    return _group(candidates.ranks // candidates.pp, candidates.pp, node)


def _group(stride: IntArray, degree: IntArray, node: NodeGroup) -> RankGroup:
    """The group of `degree` ranks that are `stride` apart, ranks numbered node by node."""
    per_node = node.devices_per_node
    inside = np.clip(per_node // stride, 1, degree)
    nodes = -(-degree // inside)
    return RankGroup(ranks_per_node=degree / nodes, nodes=nodes, sharing=np.maximum(1.0, per_node / inside))
