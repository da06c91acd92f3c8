"""Times on a mixed cluster: those of each group alone, and those of messages from one group to another.

Tensor, context, expert and data parallelism stay inside a group, and only stages of the pipeline lie in several (Holmes: Yang
et al. 2023, arXiv 2312.03549). So each group is costed as a cluster of its own, and what crosses is a message between two
neighbouring stages, or the sum of a tied embedding's gradients on the first stage and the last.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from shardwright.base import Array, IntArray, Number
from shardwright.specs import NETWORKS, ClusterSpec, Link, NodeGroup, RankGroup, TrainingSpec

from .choice import op_times
from .constants import CALIBRATED, Constants
from .datasheet import CatalogTimes
from .protocol import CollectiveName, OpTimes


@dataclass(frozen=True)
class Crossing:
    """What one rank of a group and one of another send each other. `sides`: catalog times of the nodes on both sides."""

    sides: tuple[CatalogTimes, CatalogTimes]
    network: bool

    @classmethod
    def of(cls, cluster: ClusterSpec, one: int, other: int, training: TrainingSpec, constants: Constants) -> Self:
        """Return the crossing between two groups of `cluster`: over `between`, or over the NICs of both."""
        link = cluster.between
        sides = [
            CatalogTimes(_beside(cluster.groups[index], link), training, constants, cluster.oversubscription)
            for index in (one, other)
        ]
        return cls((sides[0], sides[1]), network=link is None or link.kind in NETWORKS)

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
    """The group's node with `link`, if one is given, as its one NIC or as the link inside it."""
    if link is None:
        return group
    if link.kind in NETWORKS:
        return group.model_copy(update={"nic": link, "nics_per_node": 1})
    return group.model_copy(update={"intra_node": link})


@dataclass(frozen=True)
class MixedTimes:
    """The operation times of every group of a mixed cluster, in the order of its groups."""

    cluster: ClusterSpec
    training: TrainingSpec
    constants: Constants
    of_group: tuple[OpTimes, ...]

    @classmethod
    def of(cls, cluster: ClusterSpec, training: TrainingSpec, constants: Constants = CALIBRATED) -> Self:
        """Return the times of each group as of a cluster of its own.

        Raises:
            SpecError: a group's device does not compute in the format of `training`.
        """
        alone = (cluster.alone(index) for index in range(len(cluster.groups)))
        return cls(cluster, training, constants, tuple(op_times(each, training, constants) for each in alone))

    def crossing(self, one: int, other: int) -> Crossing:
        """Return what passes from one group to another."""
        return Crossing.of(self.cluster, one, other, self.training, self.constants)
