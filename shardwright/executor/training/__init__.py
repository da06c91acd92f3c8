"""The training loop of one rank with its inputs and outputs: data, optimizer,
checkpoints, the run's folder, the measurement."""

from .run_folder import RunFolder, RunIdentity, plan_digest
from .trainer import Trainer, open_plan_batches

__all__ = ["RunFolder", "RunIdentity", "Trainer", "open_plan_batches", "plan_digest"]
