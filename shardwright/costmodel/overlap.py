"""What compute loses to communication that runs beside it."""

import numpy as np

from .cluster import ClusterSpec
from .constants import Constants, Value, over
from .op_times import Array


def slowdown_beside(cluster: ClusterSpec, constants: Constants, like: Array) -> Value:
    """Seconds of compute lost to each second of communication, to broadcast over `like` (N, ...).

    A kernel that moves data takes its multiprocessors from the compute.
    """
    taken = over(constants.collective_multiprocessors, like)
    return np.minimum(1.0, taken / cluster.groups[0].device.multiprocessors)
