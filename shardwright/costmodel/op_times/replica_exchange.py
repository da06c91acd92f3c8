"""Times of the all-reduce between replicas of a mesh that lie in several groups of a mixed cluster.

Symbols: S bytes of one rank's gradients; G groups; n_g ranks of group g that hold the same shard. Two ways are known, and the faster
counts:

- One collective of the library over all sum_g n_g ranks. All its links work in step, so the slowest sets the pace, which is that of
  the link between the groups or of the slowest NIC (collectives/nccl.py).
- Two levels (Cho et al. 2019, BlueConnect, section 3; Jia et al. 2018, arXiv 1807.11205, section 3.3): a reduce-scatter over the n_g
  ranks of each group, an all-reduce of S / n_g between one rank of each of the G groups, and an all-gather inside the group. All
  ranks of a node exchange at once and share what leads to the other groups. Where groups have unequal n_g, the shards of the
  smaller n_g are the larger, and each part takes as long as in the slowest group.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from shardwright.base import Array
from shardwright.specs import NETWORKS, Candidates, Link, NodeGroup, RankGroup

from .between_groups import beside
from .datasheet import CatalogTimes
from .protocol import OpTimes

RanksOf = Callable[[Candidates, NodeGroup], RankGroup]


@dataclass(frozen=True)
class ReplicaExchange:
    """Replicas in G groups, as the ranks of group `own` see them.

    `times`: of every group, for what stays inside it. `sides`: catalog times of its nodes with the link that leads to the others,
    which is a `network` or a link of each device. `replicas` (G,): how many are in each group, or numbers in proportion to that.
    """

    times: tuple[OpTimes, ...]
    sides: tuple[CatalogTimes, ...]
    replicas: tuple[int, ...]
    own: int
    network: bool

    @classmethod
    def of(
        cls, times: Sequence[OpTimes], link: Link | None, replicas: Sequence[int], own: int, plain: CatalogTimes
    ) -> Self:
        """Return the exchange of `replicas` (G,), over the `link` between groups or over their NICs; `plain` are catalog times of
        any node, for the training and the constants."""
        sides = tuple(replace(plain, node=beside(each.node, link)) for each in times)
        return cls(tuple(times), sides, tuple(replicas), own, network=link is None or link.kind in NETWORKS)

    def inside(self, candidates: Candidates, group: int | None = None) -> Candidates:
        """Return candidates whose `dp_replicate` counts the replicas of all groups with that of one group, by default its own."""
        index = self.own if group is None else group
        return replace(candidates, dp_replicate=candidates.dp_replicate * self.replicas[index] // sum(self.replicas))

    def all_reduce_seconds(self, size_bytes: Array, candidates: Candidates, ranks_of: RanksOf) -> Array:
        """(N, R): seconds of summing `size_bytes` (N, R) over the replicas of all groups. `candidates` (N,) count all replicas;
        `ranks_of` gives the ranks of one group that hold the same shard."""
        groups = [ranks_of(self.inside(candidates, index), each.node).column() for index, each in enumerate(self.times)]
        return np.asarray(np.minimum(self._in_one(size_bytes, groups), self._in_two_levels(size_bytes, groups)))

    def _in_one(self, size_bytes: Array, groups: Sequence[RankGroup]) -> Array:
        """One collective over all ranks; where each device has a link of its own to the others, only if each group is one node."""
        nodes = np.sum([np.asarray(group.nodes, dtype=float) for group in groups], axis=0)
        ranks = np.sum([group.ranks for group in groups], axis=0)
        if self.network:
            whole = [RankGroup(group.ranks_per_node, nodes, group.sharing) for group in groups]
        else:
            whole = [RankGroup(ranks, 1, 1)] * len(groups)
        seconds = self._slowest(
            [
                side.collective_seconds("all_reduce", size_bytes, one)
                for side, one in zip(self.sides, whole, strict=True)
            ]
        )
        return seconds if self.network else np.where(nodes > len(groups), np.inf, seconds)

    def _in_two_levels(self, size_bytes: Array, groups: Sequence[RankGroup]) -> Array:
        among = len(groups)
        scattered, across, gathered = [], [], []
        for times, side, group in zip(self.times, self.sides, groups, strict=True):
            scattered.append(times.collective_seconds("reduce_scatter", size_bytes, group))
            gathered.append(times.collective_seconds("all_gather", size_bytes, group))
            pairs = RankGroup(1, among, side.node.devices_per_node) if self.network else RankGroup(among, 1, 1)
            across.append(side.collective_seconds("all_reduce", size_bytes / group.ranks, pairs))
        return self._slowest(scattered) + self._slowest(across) + self._slowest(gathered)

    def _slowest(self, seconds: list[Array]) -> Array:
        return np.asarray(np.max(np.broadcast_arrays(*seconds), axis=0))
