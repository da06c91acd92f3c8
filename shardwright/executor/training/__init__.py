"""The training loop of one rank with its optimizer, checkpoints, the run's folder and the measurement."""

from .checkpoint import MODEL_PREFIX, REPLICA_PREFIX, Trainee, load_checkpoint, save_checkpoint
from .frozen_start import adapter_start, frozen_content, frozen_from
from .handing_over import EarlierPhaseError, HandedOver, InPhase
from .manifest import (
    Manifest,
    complete_checkpoints,
    damaged_file,
    newest_checkpoint,
    phases_digest,
    plan_digest,
    read_manifest,
    sync,
)
from .meter import MemoryMeter
from .optimizer import HostedOptimizer, host_optimizer
from .run_folder import LAUNCHER, RunFolder, RunIdentity
from .saver import Saver
from .trainer import Trainer

__all__ = [
    "LAUNCHER",
    "MODEL_PREFIX",
    "REPLICA_PREFIX",
    "EarlierPhaseError",
    "HandedOver",
    "HostedOptimizer",
    "InPhase",
    "Manifest",
    "MemoryMeter",
    "RunFolder",
    "RunIdentity",
    "Saver",
    "Trainee",
    "Trainer",
    "adapter_start",
    "complete_checkpoints",
    "damaged_file",
    "frozen_content",
    "frozen_from",
    "host_optimizer",
    "load_checkpoint",
    "newest_checkpoint",
    "phases_digest",
    "plan_digest",
    "read_manifest",
    "save_checkpoint",
    "sync",
]
