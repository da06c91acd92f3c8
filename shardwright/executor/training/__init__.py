"""The training loop of one rank with its inputs and outputs: data, optimizer,
checkpoints, the run's folder, the measurement."""

from .checkpoint import Trainee, load_checkpoint, save_checkpoint
from .manifest import Manifest, newest_checkpoint, read_manifest
from .meter import MemoryMeter
from .optimizer import HostedOptimizer, host_optimizer
from .run_folder import LAUNCHER, RunFolder, RunIdentity, plan_digest
from .saver import Saver
from .trainer import Trainer, open_held_back, open_plan_batches

__all__ = [
    "LAUNCHER",
    "HostedOptimizer",
    "Manifest",
    "MemoryMeter",
    "RunFolder",
    "RunIdentity",
    "Saver",
    "Trainee",
    "Trainer",
    "host_optimizer",
    "load_checkpoint",
    "newest_checkpoint",
    "open_held_back",
    "open_plan_batches",
    "plan_digest",
    "read_manifest",
    "save_checkpoint",
]
