"""What a training loop calls where replicas do not reduce every gradient in full, and the method that a plan names."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from shardwright.executor.model import StageModule
from shardwright.specs import Plan

from .buckets import buckets_of
from .compressed import CompressedGradients, CompressedMomentum
from .local_steps import Islands, LocalSteps

OwnUpdate = Callable[[torch.optim.Optimizer | None], None]


class Agreement(Protocol):
    """A step of a loop: gradients of the replica alone, `before_clipping`, clipping, `update`, `after_update`.

    Steps count from 1. `apart`: whether replicas hold weights and optimizer state of their own.
    """

    @property
    def apart(self) -> bool: ...

    def before_clipping(self, step: int) -> None:
        """Exchange gradients, where the method does so."""

    def update(self, step: int, optimizer: torch.optim.Optimizer | None, plainly: Callable[[], None]) -> None:
        """Update the parameters from their gradients: `plainly`, or in the method's own way with the state of `optimizer`."""

    def after_update(self, step: int) -> None:
        """Exchange weights, where the method does so."""

    def exchange_once(self) -> None:
        """Do the exchanges of `inner_steps` steps, all of the model once, for their traffic alone."""

    def state(self, step: int) -> dict[str, Tensor]:
        """What a checkpoint after `step` holds beside weights and optimizer state, by name. What is written into it counts."""

    def restart(self) -> None:
        """Begin anew from the weights as they are."""

    def finish(self) -> None:
        """Wait for an exchange that runs, so that all replicas end together."""


def agreement(plan: Plan, stages: Sequence[StageModule], group: dist.ProcessGroup, device: torch.device) -> Agreement:
    """Return the method of an approximate plan for this rank's stages. `group`: the ranks with the same part of other replicas."""
    sync, buckets = plan.sync, buckets_of(stages, tp=plan.mesh.tp)
    if sync.method == "islands":
        return Islands()
    if sync.method == "local-steps":
        return LocalSteps(sync, buckets, group, device)
    kind = CompressedMomentum if sync.method == "1-bit-adam" else CompressedGradients
    return kind(sync, buckets, group, device)
