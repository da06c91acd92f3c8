"""A phase of a run among others, and the state of a rank handed from one phase to the next in memory, where it holds the same elements."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch.distributed.tensor import DTensor

from shardwright.base import SpecError
from shardwright.costmodel.phases import Span
from shardwright.executor.parallel import LossScale

from .checkpoint import Trainee, tensors_of


class HandedOver(NamedTuple):
    """Parameters, buffers and optimizer state of this rank after a step, by the names of a checkpoint, on the host."""

    step: int
    tensors: dict[str, torch.Tensor]
    loss_scale: LossScale | None


class EarlierPhaseError(SpecError):
    """The newest checkpoint that is whole, after `step`, is of an earlier phase. Raised on every rank."""

    def __init__(self, step: int) -> None:
        super().__init__(f"the newest checkpoint that is whole is of step {step}, of an earlier phase")
        self.step = step


class InPhase(NamedTuple):
    """The phase that a trainer takes, of a run in several.

    `began`: the start of the process, by `time.monotonic`. `held`: what the phase before handed over. `hands_over`: the next one takes the
    state from memory. `damaged`: checkpoints whose files were read and are not whole, to which the trainer adds.
    """

    span: Span
    began: float
    held: HandedOver | None
    hands_over: bool
    damaged: list[Path]


def hand_over(trainee: Trainee, step: int, loss_scale: LossScale | None) -> HandedOver:
    """Return copies on the host of what this rank holds after `step`."""
    tensors = {name: _own(tensor).to("cpu", copy=True) for name, tensor in tensors_of(trainee).items()}
    return HandedOver(step, tensors, loss_scale)


def take_over(held: HandedOver, trainee: Trainee) -> None:
    """Fill a trainee whose shards are those of the one that handed them over."""
    trainee.optimizer.create_state()
    for name, tensor in tensors_of(trainee).items():
        _own(tensor).copy_(held.tensors[name])
    trainee.optimizer.loaded()


def _own(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()
