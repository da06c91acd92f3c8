"""Compute slowed by communication that runs beside it, and the time saved by two overlapped passes."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from shardwright.base import Array
from shardwright.specs import Device, TrainingSpec

from .constants import Constants, Value, over


def slowdown_beside(device: Device, constants: Constants, like: Array, multiprocessors: int | None = None) -> Value:
    """Return the seconds of compute lost to each second of communication, to broadcast over `like` (N, ...).

    A kernel that moves data takes multiprocessors from the compute: those of a collective, unless they are given.
    """
    taken: Value = constants.collective_multiprocessors if multiprocessors is None else float(multiprocessors)
    return _share(device, taken, like)


def _share(device: Device, multiprocessors: Value, like: Array) -> Value:
    return np.minimum(1.0, over(multiprocessors, like) / device.multiprocessors)


@dataclass(frozen=True)
class Exposed:
    """Seconds that traffic on the network, and copies to and from the host, add to the compute that they run beside."""

    network: Array
    host_copy: Array


def exposed_beside(
    device: Device,
    constants: Constants,
    compute: Array,
    network: Array,
    copies: Array | float = 0.0,
    *,
    multiprocessors: int | None = None,
) -> Exposed:
    """Return the seconds that `network` and `copies` add to `compute`: the part that outlasts it, and its slowdown.

    Network and copies also run beside each other, so only the longer one may outlast the compute; both slow it, the
    network by the `multiprocessors` that it takes (see `slowdown_beside`), the copies for as long as the network leaves them
    compute. On a CPU all three need the same cores, so nothing is hidden. The arrays broadcast.
    """
    if not device.computes_beside_traffic:
        return Exposed(network + np.zeros_like(compute), copies + np.zeros_like(compute))
    beside_network = np.minimum(compute, network)
    slowed = slowdown_beside(device, constants, compute, multiprocessors) * beside_network
    beside_copies = np.minimum(compute, network + copies) - beside_network
    alone = np.maximum(0.0, network - compute) + slowed
    both = np.maximum(0.0, np.maximum(network, copies) - compute) + slowed
    both = both + _share(device, constants.copy_multiprocessors, compute) * beside_copies
    return Exposed(np.asarray(alone), np.maximum(0.0, both - alone))


def overlap_saving_seconds(
    device: Device,
    training: TrainingSpec,
    constants: Constants,
    forward: Mapping[str, Array],
    backward: Mapping[str, Array],
) -> Array:
    """(..., S): seconds that a stage's forward saves when it overlaps a backward on the rank's other stage.

    `forward`, `backward`: seconds (..., S) of each cause. Where the stack supports it, each pass computes while the other communicates over tp and
    sends tokens to experts (DeepSeek-AI 2024, arXiv 2412.19437, section 3.2.1): of n seconds of network beside c of compute, min(n, c) are saved, less
    what they slow the compute by. A dispatch that the training hides in another way is left to that.
    """
    if not training.software.overlaps_passes:
        return np.zeros_like(forward["compute"])
    # under the V placement, stage s shares its rank with the s-th stage from the end
    other = {cause: seconds[..., ::-1] for cause, seconds in backward.items()}
    tensor, expert = (
        slowdown_beside(device, constants, forward["compute"], taken)
        for taken in (None, training.dispatch_multiprocessors)
    )
    hides = not (training.overlaps_dispatch or training.dispatch_pieces > 1)
    saved = np.zeros_like(forward["compute"])
    for network, compute in ((forward, other["compute"]), (other, forward["compute"])):
        summed = np.minimum(network["tensor_parallel"], compute)
        sent = np.minimum(network["expert_parallel"], compute - summed) * hides
        saved = saved + (1 - tensor) * summed + (1 - expert) * sent
    return np.asarray(saved)
