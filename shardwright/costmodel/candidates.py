"""Many plans' global choices as arrays, so that one expression serves one plan and a million."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from .cluster import ClusterSpec
from .op_times import RankGroup
from .plan import Plan

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Candidates:
    """N combinations of the choices that hold for a whole run; every field has shape (N,).

    `stages_per_rank` counts pipeline chunks on a rank, `host_optimizer` is 1 where the optimizer lives on the host.
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
    host_optimizer: IntArray

    @classmethod
    def of(cls, plan: Plan) -> "Candidates":
        """The one candidate that `plan` is, its layers' highest ZeRO stage standing for all."""
        mesh = plan.mesh
        values = {
            "pp": mesh.pp,
            "dp_replicate": mesh.dp_replicate,
            "dp_shard": mesh.dp_shard,
            "tp": mesh.tp,
            "micro_batch": plan.micro_batch,
            "microbatches": plan.microbatches,
            "stages_per_rank": plan.stages_per_rank,
            "zero_stage": plan.zero_stage,
            "sequence_parallel": int(plan.sequence_parallel),
            "host_optimizer": plan.offload.optimizer_fraction,
        }
        return cls(**{name: np.array([value]) for name, value in values.items()})

    def __len__(self) -> int:
        return len(self.pp)

    def __getitem__(self, index: int | slice | NDArray[np.int64] | NDArray[np.bool_]) -> "Candidates":
        """The candidates at `index`, always as arrays."""
        return Candidates(**{f.name: np.atleast_1d(getattr(self, f.name)[index]) for f in fields(self)})

    @property
    def ranks(self) -> IntArray:
        return self.pp * self.dp_replicate * self.dp_shard * self.tp


def tp_group(candidates: Candidates, cluster: ClusterSpec) -> RankGroup:
    """Neighbouring ranks."""
    return _group(np.ones_like(candidates.tp), candidates.tp, cluster)


def shard_group(candidates: Candidates, cluster: ClusterSpec) -> RankGroup:
    """Ranks that hold the shards of one parameter, `tp` apart."""
    return _group(candidates.tp, candidates.dp_shard, cluster)


def replicate_group(candidates: Candidates, cluster: ClusterSpec) -> RankGroup:
    """Ranks that hold the same shard, `tp * dp_shard` apart."""
    return _group(candidates.tp * candidates.dp_shard, candidates.dp_replicate, cluster)


def pipeline_group(candidates: Candidates, cluster: ClusterSpec) -> RankGroup:
    """Two ranks of neighbouring stages; all ranks of a node send at once."""
    per_stage = candidates.ranks // candidates.pp
    return _group(per_stage, np.minimum(candidates.pp, 2), cluster)


def _group(stride: IntArray, degree: IntArray, cluster: ClusterSpec) -> RankGroup:
    """The group of `degree` ranks that are `stride` apart, ranks numbered node by node."""
    per_node = cluster.groups[0].devices_per_node
    inside = np.clip(per_node // stride, 1, degree)
    nodes = -(-degree // inside)
    return RankGroup(ranks_per_node=degree / nodes, nodes=nodes, sharing=np.maximum(1.0, per_node / inside))
