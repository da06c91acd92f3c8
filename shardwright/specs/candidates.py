"""The global choices of many plans as arrays: one expression serves one plan or a million."""

from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from shardwright.base import Array, IntArray

from .choices import COLUMNS
from .cluster import NodeGroup
from .mesh import ORDERS, PIPELINE_INSIDE_DATA, Degrees, RankGroup
from .plan import Plan, Sync
from .schedules import runs_by_chunk

_OFFLOADS = ("offload_gradients", "offload_parameters", "offload_nvme", "delayed_update")
SYNC_COLUMNS = ("sync_inner_steps", "sync_fragments", "sync_bits", "sync_delay", "sync_outer")
_PIPELINE_INSIDE_DATA = ORDERS.index(PIPELINE_INSIDE_DATA)


@dataclass(frozen=True)
class Candidates(Degrees[IntArray]):
    """N combinations of the choices that hold for a whole run; every field has shape (N,).

    `stages_per_rank` counts pipeline chunks on a rank. `offload_optimizer` (N,) is the share of the optimizer on the host; `offload_gradients`, `offload_parameters` and
    `offload_nvme` are those of `Offload`, as is `delayed_update`, 0 or 1.
    `ulysses_degree` counts the ranks of cp that trade heads in "ulysses-ring". `context_parallel` indexes `CONTEXT_PARALLEL`, `expert_dispatch` indexes `EXPERT_DISPATCH`, `order` indexes `ORDERS`. `by_chunk` is 1 where the schedule runs all
    microbatches of a rank's chunk before the next chunk. The columns
    of `SYNC_COLUMNS` are the fields of `Sync` (`sync_columns`). The axes
    of context and of experts are optional; without them no candidate has these axes.
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
    offload_optimizer: Array
    cp: IntArray = field(default_factory=lambda: np.array(1))
    ep: IntArray = field(default_factory=lambda: np.array(1))
    etp: IntArray = field(default_factory=lambda: np.array(0))
    context_parallel: IntArray = field(default_factory=lambda: np.array(0))
    ulysses_degree: IntArray = field(default_factory=lambda: np.array(1))
    expert_dispatch: IntArray = field(default_factory=lambda: np.array(0))
    order: IntArray = field(default_factory=lambda: np.array(0))
    by_chunk: IntArray = field(default_factory=lambda: np.array(0))
    offload_gradients: Array = field(default_factory=lambda: np.array(0.0))
    offload_parameters: Array = field(default_factory=lambda: np.array(0.0))
    offload_nvme: Array = field(default_factory=lambda: np.array(0.0))
    delayed_update: Array = field(default_factory=lambda: np.array(0.0))
    sync_inner_steps: Array = field(default_factory=lambda: np.array(1.0))
    sync_fragments: IntArray = field(default_factory=lambda: np.array(1))
    sync_bits: IntArray = field(default_factory=lambda: np.array(0))
    sync_delay: IntArray = field(default_factory=lambda: np.array(0))
    sync_outer: IntArray = field(default_factory=lambda: np.array(0))

    def __post_init__(self) -> None:
        for name in (
            *_OFFLOADS,
            *SYNC_COLUMNS,
            "cp",
            "ep",
            "etp",
            "context_parallel",
            "ulysses_degree",
            "expert_dispatch",
            "order",
            "by_chunk",
        ):
            if np.shape(given := getattr(self, name)) != self.pp.shape:
                object.__setattr__(self, name, np.broadcast_to(given, self.pp.shape))

    @classmethod
    def of(cls, plan: Plan) -> "Candidates":
        """The candidate of `plan`; the highest ZeRO stage of its layers stands for all layers."""
        values = {choice.name: choice.number(choice.of_plan(plan) or 0) for choice in COLUMNS if not choice.values}
        named = {choice.name: choice.number(choice.of_plan(plan)) for choice in COLUMNS if choice.values}
        every = values | named | {"microbatches": plan.microbatches} | sync_columns(plan.sync)
        every |= {"by_chunk": int(runs_by_chunk(plan.schedule))}
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
    def approximates(self) -> Array:
        """(N,): whether replicas reduce their gradients otherwise than in full at each step."""
        return np.asarray((self.sync_inner_steps != 1) | (self.sync_bits > 0) | (self.sync_outer > 0))

    @property
    def expert_shards(self) -> IntArray:
        """Ranks that share one copy of the sharded state of the same experts."""
        return np.where(self.zero_stage > 0, self.expert_shard_ranks, 1)

    @property
    def expert_replicas(self) -> IntArray:
        """Copies of the sharded state of an expert."""
        return np.asarray(self.same_experts // self.expert_shards)


def sync_columns(sync: Sync) -> dict[str, float]:
    """Return the values of `SYNC_COLUMNS`: infinite inner steps of islands that never meet, 0 bits for numbers in full, and whether
    there is an outer optimizer."""
    inner_steps = np.inf if sync.inner_steps is None else float(sync.inner_steps)
    values = (inner_steps, sync.fragments, sync.bits or 0, sync.delay, int(sync.outer is not None))
    return dict(zip(SYNC_COLUMNS, values, strict=True))


def tp_group(candidates: Candidates, node: NodeGroup) -> RankGroup:
    """Neighbouring ranks."""
    return _group(candidates, np.ones_like(candidates.tp), candidates.tp, node)


def cp_group(candidates: Candidates, node: NodeGroup) -> RankGroup:
    """Ranks that share the sequences of one data-parallel rank, `tp` apart."""
    return _group(candidates, candidates.tp, candidates.cp, node)


def ulysses_group(candidates: Candidates, node: NodeGroup) -> RankGroup:
    """The ranks of "ulysses-ring" that trade heads, `tp` apart."""
    return _group(candidates, candidates.tp, candidates.ulysses_degree, node)


def ring_group(candidates: Candidates, node: NodeGroup) -> RankGroup:
    """The ranks of cp that pass keys and values on: all of them, but in "ulysses-ring" one of each group that trades heads."""
    degree = candidates.ulysses_degree
    return _group(candidates, candidates.tp * degree, candidates.cp // degree, node)


def shard_group(candidates: Candidates, node: NodeGroup) -> RankGroup:
    """Ranks that hold the shards of one parameter, `tp` apart in their stage."""
    return _group(candidates, candidates.tp, candidates.shards, node)


def replicate_group(candidates: Candidates, node: NodeGroup) -> RankGroup:
    """Ranks that hold the same shard, `tp * shards` apart in their stage."""
    return _group(candidates, candidates.tp * candidates.shards, candidates.replicas, node)


def expert_tp_group(candidates: Candidates, node: NodeGroup) -> RankGroup:
    """Neighbouring ranks that split the same experts."""
    return _group(candidates, np.ones_like(candidates.tp), candidates.expert_tp, node)


def ep_group(candidates: Candidates, node: NodeGroup) -> RankGroup:
    """Ranks that hold different experts and trade tokens, `expert_tp` apart in their stage."""
    return _group(candidates, candidates.expert_tp, candidates.ep, node)


def expert_shard_group(candidates: Candidates, node: NodeGroup) -> RankGroup:
    """Ranks that hold the shards of the same expert."""
    return _group(candidates, candidates.expert_tp * candidates.ep, candidates.expert_shards, node)


def expert_replicate_group(candidates: Candidates, node: NodeGroup) -> RankGroup:
    """Ranks that hold the same shard of the same expert."""
    stride = candidates.expert_tp * candidates.ep * candidates.expert_shards
    return _group(candidates, stride, candidates.expert_replicas, node)


def pipeline_group(candidates: Candidates, node: NodeGroup) -> RankGroup:
    """Two ranks of neighbouring stages; all ranks of a node send at once.

    Where the pipeline lies inside data parallelism and reaches over nodes, every message counts as one that leaves its
    node. The ranks of one stage on a node then send at once, because the other stages there send inside.
    """
    per_node, degree = node.devices_per_node, np.minimum(candidates.pp, 2)
    inside = np.clip(per_node // (candidates.ranks // candidates.pp), 1, degree)
    sharing = np.maximum(1.0, per_node / inside)
    if candidates.order.any():
        within, block = candidates.order == _PIPELINE_INSIDE_DATA, candidates.tp * candidates.cp
        whole = per_node >= block * candidates.pp
        inside = np.where(within, np.where(whole, degree, 1), inside)
        sharing = np.where(within, np.where(whole, per_node / inside, np.minimum(per_node, block)), sharing)
    nodes = -(-degree // inside)
    return RankGroup(ranks_per_node=degree / nodes, nodes=nodes, sharing=sharing)


def stages_group(candidates: Candidates, node: NodeGroup) -> RankGroup:
    """All ranks of one pipeline."""
    within, block = candidates.order == _PIPELINE_INSIDE_DATA, candidates.tp * candidates.cp
    apart = np.where(within, block, candidates.ranks // candidates.pp)
    return _placed(node.devices_per_node // apart, candidates.pp, node)


def _group(candidates: Candidates, stride: IntArray, degree: IntArray, node: NodeGroup) -> RankGroup:
    """The group of `degree` ranks that are `stride` apart among the ranks of their stage, ranks numbered node by node."""
    return _placed(_of_stage_on_node(candidates, node) // stride, degree, node)


def _of_stage_on_node(candidates: Candidates, node: NodeGroup) -> IntArray:
    """(N,): ranks of one stage that a node holds or could hold, neighbours in their stage.

    Where the pipeline lies inside data parallelism a node holds a part of a block of cp * tp ranks, or one block of each
    of some stages, or several blocks of every stage.
    """
    per_node = np.full(candidates.pp.shape, node.devices_per_node)
    if not candidates.order.any():
        return per_node
    block = candidates.tp * candidates.cp
    blocks = np.maximum(1, per_node // (block * candidates.pp))
    within = np.minimum(per_node, block * blocks)
    return np.where(candidates.order == _PIPELINE_INSIDE_DATA, within, per_node)


def _placed(fitting: IntArray, degree: IntArray, node: NodeGroup) -> RankGroup:
    """The group of `degree` ranks of which a node holds at most `fitting`."""
    inside = np.clip(fitting, 1, degree)
    nodes = -(-degree // inside)
    return RankGroup(
        ranks_per_node=degree / nodes, nodes=nodes, sharing=np.maximum(1.0, node.devices_per_node / inside)
    )
