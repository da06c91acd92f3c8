"""The memory of a rank's device: the peak of a step and, turned round, the room that it leaves for activations.

Symbols: s bytes that stay over the step; a activations that are kept and worked in; b what stands beside them in the passes (two
windows of gathered parameters and one reduction's input); u what the update needs instead of them; c the allocator's slack.

    peak = s + max((1 + c) (a + b), u)    and, within a room of r,    a <= (r - s) / (1 + c) - b,  where s + u <= r
"""

from dataclasses import dataclass

import numpy as np

from shardwright.base import Array
from shardwright.costmodel.op_times import Constants
from shardwright.specs import Candidates, ClusterSpec, Device


@dataclass(frozen=True)
class HeldBytes:
    """What ranks hold beside activations, arrays that broadcast.

    Attributes:
        static: stays over the step.
        step: what the update needs beside it, when no activation is alive.
        gather_window: the largest row's parameters, gathered for its pass and freed after it; two are held at once.
        reduce_buffer: the input of the largest row's gradient reduction.
        slack: what the allocator adds to all but `static` and `step`, as a share.
    """

    static: Array
    step: Array
    gather_window: Array
    reduce_buffer: Array
    slack: Array

    @property
    def beside_activations(self) -> Array:
        """In the passes: windows of gathered parameters and the buffer of a reduction."""
        return np.asarray(2 * self.gather_window + self.reduce_buffer)

    def peak_bytes(self, activations: Array) -> Array:
        """The peak of the step with so many bytes of activations, kept and worked in; without context and communicators."""
        passes = (1 + self.slack) * (activations + self.beside_activations)
        return np.asarray(self.static + np.maximum(passes, self.step))

    def activation_room(self, room: Array) -> Array:
        """Bytes that activations may take within `room`; minus infinity where what stays, or the update, does not fit."""
        left = (room - self.static) / (1 + self.slack) - self.beside_activations
        return np.where(self.static + self.step <= room, left, -np.inf)


def usable_bytes(device: Device, constants: Constants) -> float:
    """What a plan may fill: the memory but for a reserve."""
    return device.memory_bytes * (1 - constants.memory_reserve)


def host_share_bytes(cluster: ClusterSpec) -> float:
    """Of a node's host memory, for each of its devices."""
    node = cluster.node
    return node.host.memory_bytes / node.devices_per_node


def fixed_bytes(candidates: Candidates, cluster: ClusterSpec, constants: Constants) -> Array:
    """Shape (N,): context and communicators, which no choice of layers changes."""
    return context_bytes(cluster, constants) + communicator_bytes(candidates, cluster, constants)


def context_bytes(cluster: ClusterSpec, constants: Constants) -> float:
    """What a process holds on its device before the first tensor: measured, where a profile has it."""
    device = cluster.node.device
    stated = device.context_bytes or (constants.context_bytes if device.has_own_memory else 0.0)
    return _measured(cluster, "context_bytes", stated)


def communicator_bytes(candidates: Candidates, cluster: ClusterSpec, constants: Constants) -> Array:
    """Shape (N,): one communicator for each axis, and that of all ranks, over which the gradients' norm is summed; their size as
    measured, where a profile has it."""
    if not cluster.node.device.has_own_memory:
        return np.zeros(len(candidates))
    degrees = (
        *(candidates.pp, candidates.dp_replicate, candidates.dp_shard),
        *(candidates.cp, candidates.tp, candidates.ep),
    )
    axes = np.sum([degree > 1 for degree in degrees], axis=0)
    each = _measured(cluster, "communicator_bytes", constants.communicator_bytes)
    return np.asarray(each * (axes + (axes > 0)))


def _measured(cluster: ClusterSpec, figure: str, otherwise: float) -> float:
    profile = cluster.node.profile
    return profile.figures[figure].value if profile and figure in profile.figures else otherwise
