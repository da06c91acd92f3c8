"""The best few entries of a space with their axes laid over the machine in another order.

Another order matters only where a pipeline has data parallelism beside it on several nodes, and where a block of cp * tp ranks
is smaller than a node. Every entry of a large space in every order would double the cost tables, so only entries whose bounds
are near the best plan are tried.
"""

from dataclasses import replace

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.specs import ORDERS, PIPELINE_INSIDE_DATA, ClusterSpec, TrainingSpec

from .enumerate import Space

OTHER_ORDERS_TRIED = 64
"""So many entries are tried at most, those of the lowest bounds."""
NEAR_THE_BEST = 1.1
"""Entries are tried whose bounds are below this many times the best plan's step."""


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
