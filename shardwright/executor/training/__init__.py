"""The training loop of one rank with its inputs and outputs: data, optimizer,
checkpoints, the run's folder, the measurement."""

from .frozen_start import adapter_start
from .manifest import complete_checkpoints, damaged_file, newest_checkpoint, read_manifest
from .meter import MemoryMeter
from .optimizer import host_optimizer
from .run_folder import LAUNCHER, RunFolder, RunIdentity, plan_digest
from .trainer import Trainer, open_plan_batches

__all__ = [
    "LAUNCHER",
    "MemoryMeter",
    "RunFolder",
    "RunIdentity",
    "Trainer",
    "adapter_start",
    "complete_checkpoints",
    "damaged_file",
    "host_optimizer",
    "newest_checkpoint",
    "open_plan_batches",
    "plan_digest",
    "read_manifest",
]
