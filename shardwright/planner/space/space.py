"""A space of plans as arrays: candidates, the schedules that run each, and the same entries in another order of the axes.

Another order matters only where a pipeline has data parallelism beside it on several nodes, and where a block of cp * tp ranks
is smaller than a node. Every entry of a large space in every order would double the cost tables, so only entries whose bounds
are near the best plan are tried.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import get_args

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.specs import (
    ORDERS,
    PIPELINE_INSIDE_DATA,
    PLAIN_STRATEGIES,
    POLICIES,
    SYNC_COLUMNS,
    VOCABULARY,
    Candidates,
    ClusterSpec,
    RecomputePolicy,
    ScheduleName,
    Strategy,
    Sync,
    TrainingSpec,
    VocabularyParallel,
    runs_by_chunk,
    splits_backward,
    sync_columns,
)

from .fixed import Fixed

SCHEDULES: tuple[ScheduleName, ...] = get_args(ScheduleName)
SPLIT: tuple[int, ...] = tuple(index for index, name in enumerate(SCHEDULES) if splits_backward(name))
"""Indices of the schedules that split the backward."""
BY_CHUNK: tuple[int, ...] = tuple(index for index, name in enumerate(SCHEDULES) if runs_by_chunk(name))
"""Indices of those that run all microbatches of a chunk before the next one."""

OTHER_ORDERS_TRIED = 64
"""So many entries are tried at most, those of the lowest bounds."""
NEAR_THE_BEST = 1.1
"""Entries are tried whose bounds are below this many times the best plan's step."""


@dataclass(frozen=True)
class Space:
    """N plans without their stages: entry `i` is `base[base_index[i]]` under schedule `SCHEDULES[schedule[i]]`.

    `vocabulary_parallel`: indices into `VOCABULARY`, how the ranks of the pipeline share embedding and head.
    `strategies`: what a layer may do, the plain ones first. `fixed`: the choices that every entry keeps. `split_recompute`: the recompute policies that the software runs with a
    schedule that splits the backward. Cost tables depend on `base` alone, so schedules with equally many stages on a rank
    share them.
    """

    base: Candidates
    base_index: IntArray
    schedule: IntArray
    stages_per_rank: IntArray
    vocabulary_parallel: IntArray
    fixed: Fixed
    split_recompute: tuple[RecomputePolicy, ...] = POLICIES
    strategies: tuple[Strategy, ...] = PLAIN_STRATEGIES

    def __len__(self) -> int:
        return len(self.base_index)

    @property
    def even_stages(self) -> bool:
        """Whether all stages must hold the same number of layers. Every entry of such a space allows it."""
        return bool(self.fixed.even_stages)

    @cached_property
    def splits(self) -> Array:
        """(N,): whether the schedule of an entry splits the backward."""
        return np.asarray(np.isin(self.schedule, SPLIT))

    @property
    def plain(self) -> Array:
        """(N,): whether an entry has one stage on each rank and whole backwards."""
        return np.asarray((self.stages_per_rank == 1) & ~self.splits)

    def column(self, name: str, entries: IntArray | None = None) -> IntArray:
        """Return a choice of every entry, or of `entries`, as numbers: as in the space where it has them, else as in `Candidates`."""
        chosen = slice(None) if entries is None else entries
        if name in ("schedule", "stages_per_rank", "vocabulary_parallel"):
            return np.asarray(getattr(self, name)[chosen])
        values: IntArray = getattr(self.base, name)[self.base_index[chosen]]
        return values

    @property
    def spread(self) -> Array:
        """(N,): whether all ranks of the pipeline share embedding and head."""
        return np.asarray(self.vocabulary_parallel != VOCABULARY.index("none"))

    def only(self, entries: IntArray) -> "Space":
        """Return `entries` (A,) in their order, with the candidates that they need."""
        rows, base_index = np.unique(self.base_index[entries], return_inverse=True)
        kept = {name: getattr(self, name)[entries] for name in ("schedule", "stages_per_rank", "vocabulary_parallel")}
        return replace(self, base=self.base[rows], base_index=base_index, **kept)

    def runs(self, allowed: list[int], *, splits: bool, several: bool) -> list[int]:
        """Return those of the `allowed` strategies that go with a schedule that `splits` the backward or has `several` stages on a
        rank: where either holds, all activations stay on the device."""
        return [
            index
            for index in allowed
            if (not splits or self.strategies[index].recompute in self.split_recompute)
            and not ((splits or several) and self.strategies[index].activation_offload)
        ]

    def sync_of(self, base: Candidates) -> Sync:
        """How the replicas of one of its candidates agree."""
        given = {name: float(getattr(base, name)[0]) for name in SYNC_COLUMNS}
        return next(sync for sync in self.fixed.syncs if sync_columns(sync) == given)

    def vocabulary_name(self, entry: int) -> VocabularyParallel:
        return VOCABULARY[int(self.vocabulary_parallel[entry])]

    def schedule_name(self, entry: int) -> ScheduleName:
        return SCHEDULES[int(self.schedule[entry])]


def may_change_order(space: Space, cluster: ClusterSpec, training: TrainingSpec) -> Array:
    """(N,): the entries of which the order with the pipeline inside data parallelism may change anything.

    None where the software has no such order, where one is fixed, or on a single node.
    """
    per_node = cluster.node.devices_per_node
    if PIPELINE_INSIDE_DATA not in training.software.runs.orders or space.fixed.order or cluster.devices <= per_node:
        return np.zeros(len(space), dtype=bool)
    base, block = space.base, space.base.cp * space.base.tp
    fills = base.ep * base.expert_tp == block  # see `experts_fill_block`
    may = (base.pp > 1) & (base.dp > 1) & fills & (block < per_node)
    return np.asarray(may[space.base_index])


def in_other_order(space: Space, entries: IntArray) -> Space:
    """Return `entries` (A,) with the pipeline inside data parallelism."""
    some = space.only(entries)
    other = np.full(len(some.base), ORDERS.index(PIPELINE_INSIDE_DATA))
    return replace(some, base=replace(some.base, order=other))
