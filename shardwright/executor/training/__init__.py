"""The training loop of one rank with its inputs and outputs: data, optimizer,
checkpoints, the run's folder, the measurement."""

from .batches import open_held_back, open_plan_batches
from .checkpoint import MODEL_PREFIX
from .manifest import complete_checkpoints, damaged_file, newest_checkpoint, read_manifest, sync
from .meter import MemoryMeter
from .optimizer import host_optimizer
from .run_folder import LAUNCHER, RunFolder, RunIdentity, plan_digest
from .tokenised import new_tokens_go_with_a_mistake
from .trainer import Trainer

__all__ = [
    "LAUNCHER",
    "MODEL_PREFIX",
    "MemoryMeter",
    "RunFolder",
    "RunIdentity",
    "Trainer",
    "complete_checkpoints",
    "damaged_file",
    "host_optimizer",
    "new_tokens_go_with_a_mistake",
    "newest_checkpoint",
    "open_held_back",
    "open_plan_batches",
    "plan_digest",
    "read_manifest",
    "sync",
]
