"""The adapters of a checkpoint as a folder in PEFT's format."""

import warnings
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from shardwright.base import SpecError
from shardwright.executor.adapters import is_adapter, peft_adapters, write_peft_folder
from shardwright.executor.model import read_skeleton
from shardwright.executor.training import RunFolder, damaged_file, read_manifest

from .checkpoint import pick_checkpoint
from .place import check_place, whole_folder

_MODEL = "model."


def export_adapters(run_folder: Path, to: Path, *, step: int | None = None, base_model: str | None = None) -> Path:
    """Write the adapters of the checkpoint after `step`, by default the newest, into the new folder `to`; return the checkpoint.

    It may be of any plan, and is read in this process alone. `base_model`: the name of the model beside them, for the configuration; None: the
    folder of the weights that the run started from, as PEFT writes it.

    Raises:
        SpecError: the folder holds no run with adapters, no such checkpoint, or a damaged one; `to` is not empty, or lies in the run.
        RunFailedError: the disk is full or failed.
    """
    folder = RunFolder(run_folder)
    if not folder.plan.is_file():
        raise SpecError(f"{run_folder}: holds no run; give a folder that run --out wrote")
    check_place(to, run_folder)
    plan_file = folder.read_plan()
    trainable = plan_file.training.trainable
    if not trainable.has_adapters:
        raise SpecError(f"{run_folder}: its plan trains {trainable} and has no adapters; plan with --trainable lora")
    checkpoint = pick_checkpoint(folder.checkpoints, step)
    manifest = read_manifest(checkpoint, plan_file)
    fault = damaged_file(checkpoint, manifest)
    if fault:
        raise SpecError(f"{checkpoint}: {fault}; give --step of another checkpoint")
    assert manifest.adapters is not None, "a manifest of trainable lora has them"
    if base_model is None and (weights := folder.read_options().init_from) is not None:
        base_model = str(weights)
    tensors = peft_adapters(_read(checkpoint))
    with whole_folder(to) as partial:
        skeleton = read_skeleton(plan_file)
        write_peft_folder(partial, tensors, manifest.adapters, skeleton, trainable, base_model=base_model)
    return checkpoint


def _read(checkpoint: Path) -> dict[str, Tensor]:
    """Return the adapters of a checkpoint whole, by the engine's names."""
    reader = HuggingFaceStorageReader(str(checkpoint))
    stored = {
        name: entry
        for name, entry in reader.read_metadata().state_dict_metadata.items()
        if name.startswith(_MODEL) and is_adapter(name) and isinstance(entry, TensorStorageMetadata)
    }
    wanted = {name: torch.empty(entry.size, dtype=torch.float32) for name, entry in stored.items()}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # this process reads by itself
            load(wanted, storage_reader=reader, no_dist=True)
    except CheckpointException as error:
        raise SpecError(f"{checkpoint}: cannot be read ({' '.join(str(error).split())[:200]})") from None
    return {name.removeprefix(_MODEL): tensor for name, tensor in wanted.items()}
