"""What every rank's device holds whatever its layers: the context and the communicators' buffers."""

import numpy as np

from .candidates import Candidates
from .cluster import ClusterSpec
from .constants import CALIBRATED
from .op_times import Array


def fixed_bytes(candidates: Candidates, cluster: ClusterSpec) -> Array:
    """Shape (N,): context and communicators, which no choice of layers changes; as `PlanCosts.memory` counts them."""
    device = cluster.groups[0].device
    if device.kind != "gpu":
        return np.full(len(candidates), float(device.context_bytes))
    degrees = (
        *(candidates.pp, candidates.dp_replicate, candidates.dp_shard),
        *(candidates.cp, candidates.tp, candidates.ep),
    )
    axes = np.sum([degree > 1 for degree in degrees], axis=0)
    return np.asarray((device.context_bytes or CALIBRATED.context_bytes) + CALIBRATED.communicator_bytes * axes)
