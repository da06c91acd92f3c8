"""Times of messages from one group of a mixed cluster to another.

Tensor, context and expert parallelism and ZeRO stay inside a group (Holmes: Yang et al. 2023, arXiv 2312.03549), so each group is
costed as a cluster of its own. Where the pipeline reaches over groups, what crosses is a message between two neighbouring
stages, or the sum of a tied embedding's gradients on the first stage and the last.

The all-reduce between replicas of a mesh that lie in several groups takes one of two ways, and the faster counts. Symbols: S bytes
of one rank's gradients; G groups; n_g ranks of group g that hold the same shard.

- One collective of the library over all sum_g n_g ranks. All its links work in step, so the slowest sets the pace, which is that of
  the link between the groups or of the slowest NIC (collectives/nccl.py).
- Two levels (Cho et al. 2019, "BlueConnect: decomposing all-reduce", SysML): a reduce-scatter over the n_g
  ranks of each group, an all-reduce of S / n_g between one rank of each of the G groups, and an all-gather inside the group. All
  ranks of a node exchange at once and share what leads to the other groups. Where groups have unequal n_g, the shards of the
  smaller n_g are the larger, and each part takes as long as in the slowest group.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from shardwright.base import Array, IntArray, Number
from shardwright.specs import NETWORKS, Candidates, Link, NodeGroup, RankGroup, TrainingSpec

from .constants import CALIBRATED, Constants
from .datasheet import CatalogTimes
from .protocol import CollectiveName, OpTimes

RanksOf = Callable[[Candidates, NodeGroup], RankGroup]


@dataclass(frozen=True)
class Crossing:
    """What one rank of a group and one of another send each other. `sides`: catalog times of the nodes on both sides."""

    sides: tuple[CatalogTimes, CatalogTimes]
    network: bool

    @classmethod
    def of(
        cls,
        nodes: Sequence[NodeGroup],
        link: Link | None,
        training: TrainingSpec,
        constants: Constants = CALIBRATED,
        oversubscription: float = 1.0,
    ) -> Self:
        """Return the crossing between two `nodes`: over the `link` between their groups, or over the NICs of both."""
        one, other = (CatalogTimes(_beside(node, link), training, constants, oversubscription) for node in nodes)
        return cls((one, other), network=link is None or link.kind in NETWORKS)

    def seconds(self, name: CollectiveName, size_bytes: Number, block: IntArray) -> Array:
        """Return the seconds of a collective of two ranks, one on each side: those of the slower side.

        All ranks of a stage send at once. `block` (N,) is how many these are, and a node's share of them shares its NICs.
        """

        def over(side: CatalogTimes) -> Array:
            sharing = np.minimum(block, side.node.devices_per_node)
            ranks = RankGroup(1, 2, sharing) if self.network else RankGroup(2, 1, np.ones_like(sharing))
            return side.collective_seconds(name, size_bytes, ranks)

        return np.maximum(*map(over, self.sides))


def _beside(group: NodeGroup, link: Link | None) -> NodeGroup:
    """Return the group's node with `link`, if one is given, as its one NIC or as the link inside it."""
    if link is None:
        return group
    if link.kind in NETWORKS:
        return group.model_copy(update={"nic": link, "nics_per_node": 1})
    return group.model_copy(update={"intra_node": link})


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
        sides = tuple(replace(plain, node=_beside(each.node, link)) for each in times)
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
