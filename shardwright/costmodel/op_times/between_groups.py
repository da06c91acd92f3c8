"""Times of messages from one group of a mixed cluster to another.

Tensor, context and expert parallelism and ZeRO stay inside a group (Holmes: Yang et al. 2023, arXiv 2312.03549), so each group is
costed as a cluster of its own. Where the pipeline reaches over groups, what crosses is a message between two neighbouring
stages, or the sum of a tied embedding's gradients on the first stage and the last. Replicas: see replica_exchange.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from shardwright.base import Array, IntArray, Number
from shardwright.specs import NETWORKS, Link, NodeGroup, RankGroup, TrainingSpec

from .constants import CALIBRATED, Constants
from .datasheet import CatalogTimes
from .protocol import CollectiveName


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
        one, other = (CatalogTimes(beside(node, link), training, constants, oversubscription) for node in nodes)
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


def beside(group: NodeGroup, link: Link | None) -> NodeGroup:
    """Return the group's node with `link`, if one is given, as its one NIC or as the link inside it."""
    if link is None:
        return group
    if link.kind in NETWORKS:
        return group.model_copy(update={"nic": link, "nics_per_node": 1})
    return group.model_copy(update={"intra_node": link})
