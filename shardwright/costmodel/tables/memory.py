"""The memory of a rank's device: the peak of a step and its inverse, the room that a limit leaves for activations.

Symbols: s bytes held over the whole step; a bytes of activations, kept and in working memory; b bytes beside them in
the passes (two windows of gathered parameters and one reduction's input); u bytes that the update needs instead of
them; c the allocator's slack; r the room.

    peak = s + max((1 + c) (a + b), u)    and, within a room of r,    a <= (r - s) / (1 + c) - b,  where s + u <= r
"""

from dataclasses import dataclass

import numpy as np

from shardwright.base import GIB, Array
from shardwright.costmodel.op_times import Constants
from shardwright.specs import Candidates, Device, NodeGroup, Stack, TrainingSpec
from shardwright.specs.model import ModelSpec


@dataclass(frozen=True)
class HeldBytes:
    """Bytes that ranks hold beside activations; the arrays broadcast.

    Attributes:
        static: held over the whole step.
        step: needed by the update beside it, when no activation is alive.
        gather_window: the largest row's parameters, gathered for its pass and freed after it; two are held at once.
        reduce_buffer: the input of the largest row's gradient reduction.
        slack: unused bytes of the allocator, as a share of all but `static`, `step` and `step_window`.
        step_window: needed by the update of the largest row's largest matrix, which is updated alone.
    """

    static: Array
    step: Array
    gather_window: Array
    reduce_buffer: Array
    slack: Array
    step_window: Array | float = 0.0

    @property
    def beside_activations(self) -> Array:
        """Bytes in the passes: windows of gathered parameters and the buffer of a reduction."""
        return np.asarray(2 * self.gather_window + self.reduce_buffer)

    def peak_bytes(self, activations: Array) -> Array:
        """Return the peak of the step with these bytes of activations, without context and communicators.

        `activations` counts kept ones and working memory.
        """
        passes = (1 + self.slack) * (activations + self.beside_activations)
        return np.asarray(self.static + np.maximum(passes, self.step + self.step_window))

    def activation_room(self, room: Array) -> Array:
        """Return the bytes for activations within `room`; minus infinity where static bytes or the update don't fit."""
        left = (room - self.static) / (1 + self.slack) - self.beside_activations
        return np.where(self.static + self.step + self.step_window <= room, left, -np.inf)


def usable_bytes(device: Device, constants: Constants) -> float:
    """Return the bytes that a plan may use: the memory minus a reserve, the device's own where it has one."""
    reserve = constants.memory_reserve if device.memory_reserve is None else device.memory_reserve
    return device.memory_bytes * (1 - reserve)


def host_share_bytes(node: NodeGroup) -> float:
    """Return each device's share of its host's memory, without the reserve of the host."""
    return node.host.memory_bytes * (1 - (node.host.memory_reserve or 0.0)) / node.devices_per_host


def nvme_share_bytes(node: NodeGroup) -> float:
    """Return each device's share of its host's drives."""
    return node.host.nvme_bytes / node.devices_per_host


# What Google Kubernetes Engine keeps from the pods of a node: share of the memory up to each size in GiB, then of the rest
# ("Plan GKE Standard node sizes", memory reservations). It leaves that to the kernel, its page cache and the daemons.
_HOST_RESERVES = ((4.0, 0.25), (8.0, 0.20), (16.0, 0.10), (128.0, 0.06), (np.inf, 0.02))


def host_reserve_for(memory_bytes: float) -> float:
    """Return the share of a host's memory that the operating system, page cache, data loaders and pinned buffers need.

    sum over tiers of rate x bytes in the tier / memory_bytes: 25% of the first 4 GiB, 20% of the next 4, 10% of the next 8,
    6% of the next 112, 2% of the rest.
    """
    kept, low = 0.0, 0.0
    for high, rate in _HOST_RESERVES:
        kept += rate * max(0.0, min(memory_bytes, high * GIB) - low * GIB)
        low = high
    return kept / memory_bytes


def fixed_bytes(candidates: Candidates, node: NodeGroup, constants: Constants, software: Stack) -> Array:
    """(N,): bytes of context and communicators, which don't depend on the choice of layers."""
    return context_bytes(node, constants, software) + communicator_bytes(candidates, node, constants)


def message_bytes(model: ModelSpec, training: TrainingSpec, candidates: Candidates) -> Array:
    """(N,): bytes of one microbatch's hidden states that a rank has between two stages, split over cp, and over tp where the
    sequence is."""
    elements = candidates.micro_batch * float(training.seq_len) * model.hidden_size / candidates.cp
    split = np.where(candidates.sequence_parallel == 1, candidates.tp, 1)
    return np.asarray(training.precision.activation_bytes_per_element * elements / split)


def receive_buffer_bytes(model: ModelSpec, training: TrainingSpec, candidates: Candidates) -> Array:
    """(N,): bytes of the buffers for messages of a step on a rank, where a stack holds one for each (`holds_receive_buffers`).

    Of M microbatches each of a rank's v stages receives M hidden states and M gradients; the first and the last one of all
    receive only one kind. Of the hidden states, those of p microbatches in flight count as kept activations. So it is M
    messages with two stages, and max(M, v (2 M - p)) with more. A rank with fewer in flight has as many more buffers as it keeps fewer
    inputs of stages.

    A stack whose stages keep all outputs (`stage_outputs`) has v M hidden states that it sent and v M gradients that it sent
    besides. The first and the last stage of all miss M of one kind; here every rank does, as most is in flight on the first.
    """
    chosen = candidates
    if not training.software.holds_receive_buffers or (chosen.pp == 1).all():
        return np.zeros(len(chosen))
    received = chosen.stages_per_rank * (2 * chosen.microbatches - chosen.pp)
    several = np.where(chosen.pp * chosen.stages_per_rank > 2, received, 0)
    messages = np.maximum(chosen.microbatches, several)
    if training.software.stage_outputs == "all":
        messages = messages + (2 * chosen.stages_per_rank - 1) * chosen.microbatches
    return np.where(chosen.pp > 1, messages * message_bytes(model, training, chosen), 0.0)


def context_bytes(node: NodeGroup, constants: Constants, software: Stack) -> float:
    """Return the bytes that a process of `software` holds on its device besides tensors: measured, where a profile has them."""
    device = node.device
    stated = device.context_bytes or (constants.context_bytes if device.has_own_memory else 0.0)
    return _measured(node, "context_bytes", stated + software.context_bytes * device.has_own_memory)


def communicator_bytes(candidates: Candidates, node: NodeGroup, constants: Constants) -> Array:
    """(N,): bytes of one communicator for each axis, and of the one of all ranks that sums the norm of the gradients.

    Their size is the measured one, where a profile has it.
    """
    if not node.device.has_own_memory:
        return np.zeros(len(candidates))
    degrees = (
        *(candidates.pp, candidates.dp_replicate, candidates.dp_shard),
        *(candidates.cp, candidates.tp, candidates.ep),
    )
    axes = np.sum([degree > 1 for degree in degrees], axis=0)
    each = _measured(node, "communicator_bytes", constants.communicator_bytes)
    return np.asarray(each * (axes + (axes > 0)))


def _measured(node: NodeGroup, figure: str, otherwise: float) -> float:
    profile = node.profile
    return profile.figures[figure].value if profile and figure in profile.figures else otherwise
