"""What compute loses to communication that runs beside it, and what two passes gain that run at once."""

from collections.abc import Mapping

import numpy as np

from shardwright.base import Array
from shardwright.specs import ClusterSpec, TrainingSpec

from .constants import Constants, Value, over


def slowdown_beside(cluster: ClusterSpec, constants: Constants, like: Array) -> Value:
    """Seconds of compute lost to each second of communication, to broadcast over `like` (N, ...).

    A kernel that moves data takes its multiprocessors from the compute.
    """
    taken = over(constants.collective_multiprocessors, like)
    return np.minimum(1.0, taken / cluster.groups[0].device.multiprocessors)


def overlap_saving_seconds(
    cluster: ClusterSpec,
    training: TrainingSpec,
    constants: Constants,
    forward: Mapping[str, Array],
    backward: Mapping[str, Array],
) -> Array:
    """Shape (..., S): what a stage's forward saves when it is overlapped with a backward on the rank's other stage.

    `forward`, `backward`: seconds (..., S) of each cause. Where the stack can, each pass computes while the other communicates
    (DeepSeek-AI 2024, arXiv 2412.19437, section 3.2.1), and is slowed by it as by any communication beside it.
    """
    if not training.software.overlaps_passes:
        return np.zeros_like(forward["compute"])
    # under the V placement, stage s shares its rank with the s-th from the end
    other = {cause: seconds[..., ::-1] for cause, seconds in backward.items()}
    hidden = np.minimum(forward["tensor_parallel"], other["compute"])
    hidden = hidden + np.minimum(other["tensor_parallel"], forward["compute"])
    return np.asarray((1 - slowdown_beside(cluster, constants, hidden)) * hidden)
