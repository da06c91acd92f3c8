"""What every rank's device holds whatever its layers: the context and the communicators' buffers."""

import numpy as np

from .candidates import Candidates
from .cluster import ClusterSpec
from .constants import CALIBRATED
from .op_times import Array


def fixed_bytes(candidates: Candidates, cluster: ClusterSpec) -> Array:
    """Shape (N,): context and communicators, which no choice of layers changes."""
    return context_bytes(cluster) + communicator_bytes(candidates, cluster)


def context_bytes(cluster: ClusterSpec) -> float:
    """What a process holds on its device before the first tensor: measured, where a profile has it."""
    profile = cluster.groups[0].profile
    if profile is not None and "context_bytes" in profile.figures:
        return profile.figures["context_bytes"].value
    device = cluster.groups[0].device
    return device.context_bytes or (CALIBRATED.context_bytes if device.kind == "gpu" else 0.0)


def communicator_bytes(candidates: Candidates, cluster: ClusterSpec) -> Array:
    """Shape (N,): one communicator for each axis, and that of all ranks, over which the gradients' norm is summed."""
    if cluster.groups[0].device.kind != "gpu":
        return np.zeros(len(candidates))
    degrees = (
        *(candidates.pp, candidates.dp_replicate, candidates.dp_shard),
        *(candidates.cp, candidates.tp, candidates.ep),
    )
    axes = np.sum([degree > 1 for degree in degrees], axis=0)
    return np.asarray(CALIBRATED.communicator_bytes * (axes + (axes > 0)))
