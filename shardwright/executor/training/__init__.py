"""The training loop of one rank with its inputs and outputs: data, optimizer,
checkpoints, the run's folder, the measurement."""

from .manifest import newest_checkpoint
from .run_folder import LAUNCHER, RunFolder, RunIdentity, plan_digest
from .trainer import Trainer, open_plan_batches

__all__ = ["LAUNCHER", "RunFolder", "RunIdentity", "Trainer", "newest_checkpoint", "open_plan_batches", "plan_digest"]
