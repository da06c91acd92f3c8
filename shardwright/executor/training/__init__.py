"""The training loop of one rank with its inputs and outputs: data, optimizer,
checkpoints, the run's folder, the measurement."""

from .manifest import newest_checkpoint
from .meter import MemoryMeter
from .optimizer import host_optimizer
from .run_folder import LAUNCHER, RunFolder, RunIdentity, plan_digest
from .trainer import Trainer, open_held_back, open_plan_batches

__all__ = [
    "LAUNCHER",
    "MemoryMeter",
    "RunFolder",
    "RunIdentity",
    "Trainer",
    "host_optimizer",
    "newest_checkpoint",
    "open_held_back",
    "open_plan_batches",
    "plan_digest",
]
