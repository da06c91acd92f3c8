"""What every rank's device holds whatever its layers: the context and the communicators' buffers."""

import numpy as np

from shardwright.base import Array
from shardwright.costmodel.op_times import CALIBRATED, Constants
from shardwright.specs import Candidates, ClusterSpec, Device


def usable_bytes(device: Device, constants: Constants) -> float:
    """What a plan may fill: the memory but for a reserve."""
    return device.memory_bytes * (1 - constants.memory_reserve)


def fixed_bytes(candidates: Candidates, cluster: ClusterSpec) -> Array:
    """Shape (N,): context and communicators, which no choice of layers changes."""
    return context_bytes(cluster) + communicator_bytes(candidates, cluster)


def context_bytes(cluster: ClusterSpec) -> float:
    """What a process holds on its device before the first tensor: measured, where a profile has it."""
    device = cluster.groups[0].device
    stated = device.context_bytes or (CALIBRATED.context_bytes if device.kind == "gpu" else 0.0)
    return _measured(cluster, "context_bytes", stated)


def communicator_bytes(candidates: Candidates, cluster: ClusterSpec) -> Array:
    """Shape (N,): one communicator for each axis, and that of all ranks, over which the gradients' norm is summed; their size as
    measured, where a profile has it."""
    if cluster.groups[0].device.kind != "gpu":
        return np.zeros(len(candidates))
    degrees = (
        *(candidates.pp, candidates.dp_replicate, candidates.dp_shard),
        *(candidates.cp, candidates.tp, candidates.ep),
    )
    axes = np.sum([degree > 1 for degree in degrees], axis=0)
    each = _measured(cluster, "communicator_bytes", CALIBRATED.communicator_bytes)
    return np.asarray(each * (axes + (axes > 0)))


def _measured(cluster: ClusterSpec, figure: str, otherwise: float) -> float:
    profile = cluster.groups[0].profile
    return profile.figures[figure].value if profile and figure in profile.figures else otherwise
