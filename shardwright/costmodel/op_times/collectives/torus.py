"""What a group of devices has of the links of a torus.

The devices of a node stand in a torus of d dimensions, as nearly equal as may be: D devices have sides of k = D^(1/d). A device has two
links in each dimension, one to either neighbour. Consecutive ranks fill one dimension after the other. A group of n ranks
therefore lies in ceil(log n / log k) dimensions, and its collectives run around all of these at once (Kumar and Jouppi 2020, Highly available data parallel ML
training on mesh networks, arXiv 2011.03605). A group whose ranks are further apart is taken for one of consecutive ranks; slices below 4 x 4 x 4, which
have no links around (Jouppi et al. 2023, TPU v4, arXiv 2304.01433, section 2), for whole tori.
"""

import numpy as np

from shardwright.base import Array, Number
from shardwright.specs import NodeGroup

_ROUNDING = 1e-9


def torus_share(node: NodeGroup, ranks_per_node: Number) -> Array:
    """Return the share of a device's links that the collectives of a group use."""
    return np.asarray(_dimensions_used(node, ranks_per_node) / node.intra_node.torus)


def torus_steps(node: NodeGroup, ranks_per_node: Number) -> Array:
    """Return the steps of an all-gather around the dimensions, one after the other: k - 1 in each."""
    used = _dimensions_used(node, ranks_per_node)
    return np.asarray(used * (_side_of_group(used, ranks_per_node) - 1))


def torus_exchange_share(node: NodeGroup, ranks_per_node: Number) -> Array:
    """Return the share of a device's links that carry its own data in an all-to-all: a message takes k / 4 hops in each dimension
    (the mean of a ring of k both ways), so that S bytes of each device load its two links of a dimension with S k / 4."""
    used = _dimensions_used(node, ranks_per_node)
    hops = np.maximum(1.0, _side_of_group(used, ranks_per_node) / 4)
    return np.asarray(1.0 / (node.intra_node.torus * hops))


def _dimensions_used(node: NodeGroup, ranks_per_node: Number) -> Array:
    side = max(2.0, node.devices_per_node ** (1 / node.intra_node.torus))
    ranks = np.maximum(2.0, np.asarray(ranks_per_node, dtype=float))
    used = np.ceil(np.log(ranks) / np.log(side) - _ROUNDING)
    return np.asarray(np.clip(used, 1, node.intra_node.torus))


def _side_of_group(dimensions: Array, ranks_per_node: Number) -> Array:
    return np.asarray(np.asarray(ranks_per_node, dtype=float) ** (1 / dimensions))
