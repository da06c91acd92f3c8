"""The seconds of one collective of gloo over the CPU ranks of a group."""

import numpy as np

from shardwright.base import Array, Number
from shardwright.costmodel.op_times.protocol import CollectiveName
from shardwright.specs import NodeGroup, RankGroup

# Share of a NIC's rate that TCP sockets reach; assumed. Links inside a node are given as measured.
_SOCKET_FRACTION = 0.65


def gloo_seconds(
    name: CollectiveName, size_bytes: Number, group: RankGroup, node: NodeGroup, oversubscription: float = 1.0
) -> Array:
    """Ring algorithms (Thakur et al. 2005): (n-1)/n of the bytes over the slowest link, twice for an all-reduce.

    The arguments are those of `Collectives` and its `seconds`. Latency grows with the ranks of a node and with the
    nodes. A pass waits for every further rank of a node, and for every further node.
    """
    ranks, nodes, per_node = group.ranks, np.asarray(group.nodes), np.asarray(group.ranks_per_node)
    size_bytes = np.asarray(size_bytes, dtype=float)
    inside = node.intra_node.bytes_per_s
    outside = node.node_bytes_per_s * _SOCKET_FRACTION / oversubscription / np.asarray(group.sharing, dtype=float)
    crosses = nodes > 1
    if name == "all_to_all":
        leaving = per_node * (ranks - per_node) / ranks * size_bytes / outside
        seconds = np.maximum((per_node - 1) / ranks * size_bytes / inside, np.where(crosses, leaving, 0.0))
    else:
        rate = np.where(crosses, np.minimum(outside, np.where(per_node > 1, inside, np.inf)), inside)
        share = 1.0 if name in ("send", "broadcast") else (ranks - 1) / ranks
        seconds = _passes(name) * share * size_bytes / rate
    across = node.nic_latency_seconds
    hops = (per_node - 1) * node.intra_node.latency_seconds + np.where(crosses, (nodes - 1.0) * across, 0.0)
    start = node.intra_node.latency_seconds + np.where(crosses, across, 0.0)
    latency = start + (0.0 if name == "send" else hops * _passes(name))
    return np.where(ranks > 1, latency + seconds, 0.0)


def _passes(name: CollectiveName) -> float:
    return 2.0 if name == "all_reduce" else 1.0
