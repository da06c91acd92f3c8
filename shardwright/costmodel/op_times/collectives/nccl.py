"""The seconds of one collective of NCCL (or RCCL) over the GPUs of a group, by its fastest algorithm.

Symbols, as in the code: n ranks = g ranks_per_node x N nodes; S bytes of the whole tensor; l the latency of a step over
a link; L the sum of these along the longest path; w = bytes on the busiest link over the rate of that link.

Every algorithm but the all-to-all is of one of two kinds.

Lockstep (ring, send): all links work in every step, so a collective takes its L once and its w once. Some protocols of
NCCL synchronise by flags inside the data. A step then takes the share `low_latency_step` of its latency, and the data
moves at the share `low_latency_rate` of its rate. Seconds: start + min(step L + w / rate, L + w).

Pipelined (trees, in-switch reduction, broadcast): chunks follow each other along a path. m chunks cost m L' of
synchronising, and the path fills for w / m. With the best m these two are 2 sqrt(L' w), with L' = `chunk_fill` L (the
pipelined broadcast of Johnsson and Ho 1989). Seconds: start + step L + w + 2 sqrt(chunk_fill L w).

Steps and bytes follow NCCL's own tuning model (src/graph/tuning.cc, ncclTopoTuneModel). They are given by algorithm
below.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from shardwright.base import Array, Number
from shardwright.costmodel.op_times.constants import Constants, Value, over
from shardwright.costmodel.op_times.protocol import CollectiveName
from shardwright.specs import NodeGroup, RankGroup

from .torus import torus_exchange_share, torus_share, torus_steps

# To the switch and back, once to fetch the sums and once to spread them.
_SWITCH_STEPS = 4


@dataclass(frozen=True)
class Collectives:
    """Collectives among the GPUs of nodes like `node`. Every argument of a method may be an array; results broadcast.

    A constant may hold one value a candidate (see `constants.over`). `nic_share`: share of the rate between nodes that
    collectives reach. It is less in a step that also computes and stores than in a benchmark of collectives alone.
    `oversubscription` divides that rate.
    """

    node: NodeGroup
    constants: Constants
    nic_share: Value = 1.0
    oversubscription: float = 1.0

    def seconds(self, name: CollectiveName, size_bytes: Number, group: RankGroup) -> Array:
        """Return the seconds of one collective over `group`, 0 for a group of one rank.

        `size_bytes`: the whole tensor, gathered or unreduced; for an all_to_all, the bytes on one rank.
        """
        size_bytes = np.asarray(size_bytes, dtype=float)
        one = _Collective(self, size_bytes, group)
        if name == "all_reduce":
            seconds = np.minimum(one.ring_seconds(passes=2), one.tree_seconds())
            if reduces_in_switch(self.node):
                seconds = np.minimum(seconds, one.in_switch_seconds())
        elif name == "all_to_all":
            seconds = one.all_to_all_seconds()
        elif name == "send":
            seconds = one.send_seconds()
        elif name == "broadcast":
            seconds = one.broadcast_seconds()
        else:
            seconds = one.ring_seconds(passes=1)
        return np.where(group.ranks > 1, seconds, 0.0)


def reduces_in_switch(node: NodeGroup) -> bool:
    """Whether the switch that joins the node's GPUs adds up the data (NVLink SHARP, since Hopper)."""
    return node.intra_node.kind == "nvswitch" and node.device.since_hopper


def share_of_links(node: NodeGroup, ranks_per_node: Number) -> Array:
    """Return the share of a device's links that reaches the others of its group: 1, except where links join pairs or neighbours."""
    ranks_per_node = np.asarray(ranks_per_node, dtype=float)
    if node.intra_node.torus:
        return torus_share(node, ranks_per_node)
    if not node.intra_node.meshed or node.devices_per_node == 1:
        return np.ones_like(ranks_per_node)
    return np.asarray(np.maximum(ranks_per_node - 1, 1) / (node.devices_per_node - 1))


class _Collective:
    """Common data of all algorithms over one group: its counts, rates and latencies, broadcast together."""

    def __init__(self, among: Collectives, size_bytes: Array, group: RankGroup) -> None:
        node, constants = among.node, among.constants
        self.size_bytes = size_bytes
        self.ranks, self.nodes = group.ranks, np.asarray(group.nodes, dtype=float)
        self.per_node = np.asarray(group.ranks_per_node, dtype=float)
        self.crosses = self.nodes > 1
        self._sharing = group.sharing
        self._constants = constants
        self._node = node
        self._hop_seconds, self._node_hop_seconds = node.intra_node.latency_seconds, node.nic_latency_seconds
        self._link_bytes_per_s = node.intra_node.bytes_per_s * share_of_links(node, self.per_node)
        shared = node.node_bytes_per_s / among.oversubscription / np.asarray(group.sharing, dtype=float)
        self._inside_bytes_per_s = self._link_bytes_per_s * self._over(constants.nvlink_fraction)
        self._outside_bytes_per_s = shared * self._over(constants.nic_fraction) * self._over(among.nic_share)

    def ring_seconds(self, *, passes: int) -> Array:
        """All-gather or reduce-scatter in one pass; an all-reduce is both, in 2 passes (Thakur et al. 2005).

        A pass has n - 1 steps, of which N - 1 cross nodes. Each link carries (n-1)/n S. Across nodes the rate is the
        group's share of the NICs, because the ring leaves each node once.
        """
        sent_bytes = passes * (self.ranks - 1) / self.ranks * self.size_bytes
        return self._lockstep(passes * self._hops_around, sent_bytes / self._narrowest_bytes_per_s)

    def tree_seconds(self) -> Array:
        """All-reduce up and down two trees of the nodes, each with half of the data. The ranks of a node form chains.

        Source: Sanders, Speck and Träff 2009. A chain carries S up and S down, and each rank sends one way at a time.
        Each of two nodes sends S. From three on, a node is inside one tree and a leaf of the other, and sends up to 2
        S.
        """
        hops = 2 * (self.per_node - 1) * self._hop_seconds + self._tree_hops
        chain = np.where(self.per_node > 1, 2 * self.size_bytes / self._inside_bytes_per_s, 0.0)
        return self._pipelined(hops, np.maximum(chain, self._tree_bytes_seconds))

    def in_switch_seconds(self) -> Array:
        """All-reduce where the switch of a node adds and spreads (NVLink SHARP), with trees between nodes.

        A rank sends all S to be added, then its 1/g of the sums to be spread: (g+1)/g S.
        """
        rate = self._link_bytes_per_s * self._over(self._constants.in_switch_fraction)
        inside = (self.per_node + 1) / self.per_node * self.size_bytes / rate
        hops = _SWITCH_STEPS * self._hop_seconds + self._tree_hops
        seconds = self._pipelined(hops, np.maximum(inside, self._tree_bytes_seconds))
        return np.where(self.per_node > 1, seconds, np.inf)

    def broadcast_seconds(self) -> Array:
        """A chain through all ranks."""
        return self._pipelined(self._hops_around, self.size_bytes / self._narrowest_bytes_per_s)

    def all_to_all_seconds(self) -> Array:
        """Each rank sends 1/n of its S to each other rank.

        (g-1)/n go inside the node and (n-g)/n through its share of the NICs, at once. The messages of one node to
        another leave together, so a rank starts with g - 1 neighbours and N - 1 nodes. No message waits for the data of
        another: start + step L + w.
        """
        inside = (self.per_node - 1) / self.ranks * self.size_bytes / self._exchanged_bytes_per_s
        leaving = self.per_node * (self.ranks - self.per_node) / self.ranks * self.size_bytes
        hops = (self.per_node - 1) * self._hop_seconds + (self.nodes - 1) * self._node_hop_seconds
        bytes_seconds = np.maximum(inside, leaving / self._outside_bytes_per_s)
        return np.asarray(self._start_seconds + self._quick_seconds(hops) + bytes_seconds)

    def send_seconds(self) -> Array:
        """One rank sends to one other, inside a node or through its share of the NICs."""
        hop = np.where(self.crosses, self._node_hop_seconds, self._hop_seconds)
        rate = np.where(self.crosses, self._outside_bytes_per_s, self._inside_bytes_per_s)
        return self._lockstep(hop, self.size_bytes / rate)

    @property
    def _hops_around(self) -> Array:
        across = self.nodes - 1
        inside = self.ranks - 1 - across
        if self._node.intra_node.torus:
            inside = self.nodes * torus_steps(self._node, self.per_node)
        return np.asarray(inside * self._hop_seconds + across * self._node_hop_seconds)

    @property
    def _exchanged_bytes_per_s(self) -> Array:
        """Bytes/s that a rank exchanges with all others of its node at once."""
        links = self._node.intra_node
        if not links.torus:
            return np.asarray(self._inside_bytes_per_s)
        own = links.bytes_per_s * self._over(self._constants.nvlink_fraction)
        return np.asarray(own * torus_exchange_share(self._node, self.per_node))

    @property
    def _tree_hops(self) -> Array:
        return np.asarray(2 * np.log2(self.nodes) * self._node_hop_seconds)

    @property
    def _tree_bytes_seconds(self) -> Array:
        """Seconds of the bytes that a node sends: none alone, S among two nodes, up to 2 S among more."""
        return np.asarray(np.minimum(self.nodes - 1, 2.0) * self.size_bytes / self._outside_bytes_per_s)

    @property
    def _narrowest_bytes_per_s(self) -> Array:
        across = np.where(
            self.per_node > 1,
            np.minimum(self._outside_bytes_per_s, self._inside_bytes_per_s),
            self._outside_bytes_per_s,
        )
        return np.where(self.crosses, across, self._inside_bytes_per_s)

    def _lockstep(self, hops_seconds: Array, bytes_seconds: Array) -> Array:
        quick = self._quick_seconds(hops_seconds) + bytes_seconds / self._over(self._constants.low_latency_rate)
        return np.asarray(self._start_seconds + np.minimum(quick, hops_seconds + bytes_seconds))

    def _pipelined(self, hops_seconds: Array, bytes_seconds: Array) -> Array:
        filling = 2 * np.sqrt(self._over(self._constants.chunk_fill) * hops_seconds * bytes_seconds)
        return np.asarray(self._start_seconds + self._quick_seconds(hops_seconds) + bytes_seconds + filling)

    def _quick_seconds(self, hops_seconds: Array) -> Array:
        return np.asarray(hops_seconds * self._over(self._constants.low_latency_step))

    @property
    def _start_seconds(self) -> Value:
        return self._over(self._constants.collective_seconds)

    def _over(self, constant: Value) -> Value:
        return constant if isinstance(constant, float) else over(constant, self._like)

    @cached_property
    def _like(self) -> Array:
        return np.broadcast_to(0.0, np.broadcast(self.size_bytes, self.ranks, np.asarray(self._sharing)).shape)
