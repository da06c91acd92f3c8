"""Checkpoints: parameters and optimizer state by parameter name, which any plan of the same model can load.

A checkpoint is a folder `step-000010` of safetensors files and `checkpoint.json`. torch's distributed checkpoint has a
pickled index; this one has none, so that reading a checkpoint cannot run code from it.
"""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from shardwright.base import RunFailedError, SpecError, read_json
from shardwright.costmodel import PlanFile
from shardwright.executor.offload import Contents
from shardwright.specs import NonNegativeInt, OptimizerName, Spec

from .optimizer import HostedOptimizer

MANIFEST = "checkpoint.json"
FILE_BYTES = 2**30
_UNREAD_CONFIG_KEYS = ("_name_or_path", "architectures", "transformers_version", "torch_dtype", "dtype", "use_cache")


class Manifest(Spec):
    """The contents of a checkpoint. Its presence in a folder means that the
    folder is complete. `files`: bytes by name."""

    kind: Literal["shardwright-checkpoint"] = "shardwright-checkpoint"
    schema_version: Literal[1] = 1
    step: NonNegativeInt
    model_name: str
    model_config_json: dict[str, Any]
    optimizer: OptimizerName
    plan_digest: str
    data_digest: str
    seed: NonNegativeInt
    files: dict[str, NonNegativeInt]


class Trainee(NamedTuple):
    """The contents of a checkpoint on this rank: its stages and their optimizer.

    `tied` maps the name of a tied parameter to the name under which it is saved. Under pipeline parallelism the first
    and the last stage have a copy each.
    """

    parts: Sequence[nn.Module]
    optimizer: HostedOptimizer
    tied: Mapping[str, str]


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the complete checkpoint of the highest step in `folder`, or None."""
    complete = _complete_checkpoints(folder)
    return complete[-1] if complete else None


def _complete_checkpoints(folder: Path) -> list[Path]:
    found = (path for path in folder.glob("step-*") if (path / MANIFEST).is_file())
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def read_manifest(checkpoint: Path, plan_file: PlanFile) -> Manifest:
    """Return the manifest of a checkpoint that `plan_file`'s model can load. Reads no tensor and needs no process
    group.

    Raises:
        SpecError: no complete checkpoint, a foreign or damaged file in it, or one of another model or optimizer.
    """
    if not (checkpoint / MANIFEST).is_file():
        raise SpecError(
            f"{checkpoint}: is no complete checkpoint (no {MANIFEST}); give a folder such as checkpoints/step-000100"
        )
    manifest = Manifest.parse(read_json(checkpoint / MANIFEST), source=str(checkpoint / MANIFEST))
    _check_files(checkpoint, manifest)
    difference = _config_difference(manifest.model_config_json, plan_file.model_config_json)
    if difference:
        raise SpecError(
            f"{checkpoint}: is of another model, {manifest.model_name}, not {plan_file.model_name} ({difference}); give a checkpoint of this plan's model"
        )
    if manifest.optimizer != plan_file.training.optimizer:
        raise SpecError(
            f"{checkpoint}: was written with optimizer {manifest.optimizer}, and the plan trains with {plan_file.training.optimizer}; plan with {manifest.optimizer}"
        )
    return manifest


def _check_files(checkpoint: Path, manifest: Manifest) -> None:
    present = {file.name: file.stat().st_size for file in checkpoint.iterdir() if file.name != MANIFEST}
    for name in sorted(present.keys() - manifest.files.keys()):
        raise SpecError(
            f"{checkpoint}: holds {name}, which is no part of the checkpoint and is not read; remove it or give another checkpoint"
        )
    for name, size in sorted(manifest.files.items()):
        if present.get(name) != size:
            found = f"{present[name]} bytes" if name in present else "absent"
            raise SpecError(f"{checkpoint}: {name} is damaged ({found}, not {size} bytes); give another checkpoint")


def _config_difference(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    for key in sorted(theirs.keys() | ours.keys()):
        if key not in _UNREAD_CONFIG_KEYS and theirs.get(key) != ours.get(key):
            return f"{key} {theirs.get(key)}, not {ours.get(key)}"
    return ""


def save_checkpoint(folder: Path, trainee: Trainee, manifest: Manifest, *, keep: int) -> Path:
    """Write `folder/step-NNNNNN` completely or not at all, then remove all but the newest `keep`. Every rank calls
    this.

    `manifest.files` is filled in here.

    Raises:
        RunFailedError: the checkpoint cannot be written, for example on a full disk.
    """
    final = folder / f"step-{manifest.step:06d}"
    partial = folder / f".{final.name}.partial"
    if dist.get_rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    dist.barrier()
    tensors = _tensors(trainee, _contents(trainee))
    writer = HuggingFaceStorageWriter(str(partial), _file_of_each(tensors), save_distributed=True)
    try:
        save(tensors, storage_writer=writer)
    except CheckpointException as error:
        raise RunFailedError(
            f"{final}: cannot be written ({_first_cause(error)}); the checkpoints before it are whole"
        ) from error
    if dist.get_rank() == 0:
        _check_coverage(HuggingFaceStorageReader(str(partial)).read_metadata(), partial)
        files = {file.name: file.stat().st_size for file in sorted(partial.iterdir())}
        complete = manifest.model_copy(update={"files": files})
        (partial / MANIFEST).write_text(json.dumps(complete.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        for old in _complete_checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    dist.barrier()
    return final


def load_checkpoint(checkpoint: Path, trainee: Trainee, plan_file: PlanFile) -> None:
    """Load parameters and optimizer from a checkpoint of any plan. Every rank calls this.

    Raises:
        SpecError: `read_manifest` refuses it, tensors are damaged, or names and shapes are of another model.
    """
    read_manifest(checkpoint, plan_file)
    trainee.optimizer.create_state()
    contents = _contents(trainee)
    wanted = _tensors(trainee, contents)
    reader = HuggingFaceStorageReader(str(checkpoint))
    try:
        metadata = reader.read_metadata()
        _check_coverage(metadata, checkpoint)
    except SpecError:
        raise
    except Exception as error:  # safetensors, json and torch each raise their own errors for a damaged header
        detail = " ".join(str(error).split())
        raise SpecError(f"{checkpoint}: is damaged ({detail}); give another checkpoint") from None
    _check_tensors(metadata, wanted, checkpoint)
    try:
        load(wanted, storage_reader=reader)
    except CheckpointException as error:
        raise SpecError(f"{checkpoint}: cannot be read ({_first_cause(error)}); give another checkpoint") from None
    if contents is not None:
        contents.write_back()


def _first_cause(error: CheckpointException) -> str:
    """Return the first rank's error in one line; torch collects all ranks' errors with their tracebacks."""
    rank, (cause, _) = min(error.failures.items())
    said = getattr(cause, "strerror", None) or str(cause)
    return f"rank {rank}: {' '.join(said.split())}"


def _contents(trainee: Trainee) -> Contents | None:
    offload = trainee.optimizer.offload
    return None if offload is None else Contents(offload, trainee.optimizer.device_state)


def _tensors(trainee: Trainee, contents: Contents | None) -> dict[str, torch.Tensor]:
    """Return this rank's parameters as `model.NAME` and their optimizer state as `optimizer.NAME.KIND`."""
    tensors: dict[str, torch.Tensor] = {}
    for full_name, parameter in (named for part in trainee.parts for named in part.named_parameters()):
        name = trainee.tied.get(full_name, full_name)
        held = None if contents is None else contents.of(parameter)
        if held is None:
            held = {"": parameter.detach(), **trainee.optimizer.device_state.get(parameter, {})}
        for kind, value in held.items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer.{name}.{kind}" if kind else f"model.{name}"] = value
    return tensors


def _file_of_each(tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Assign each tensor of the model to one of a rank's files, from 1. Files
    are built in memory, so they stay small."""
    local = {name: _local_bytes(tensor) for name, tensor in tensors.items()}
    everyone: list[dict[str, int]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, local)
    largest: dict[str, int] = {}
    for part in everyone:
        for name, size in part.items():
            largest[name] = max(size, largest.get(name, 0))
    files, index, filled = {}, 1, 0
    for name in sorted(largest):
        if filled and filled + largest[name] > FILE_BYTES:
            index, filled = index + 1, 0
        files[name] = index
        filled += largest[name]
    return files


def _local_bytes(tensor: torch.Tensor) -> int:
    return int((tensor.to_local() if isinstance(tensor, DTensor) else tensor).nbytes)


def _check_coverage(metadata: Metadata, checkpoint: Path) -> None:
    """Refuse tensors whose pieces are incomplete. torch would silently leave the missing elements unchanged."""
    for name, tensor in metadata.state_dict_metadata.items():
        assert isinstance(tensor, TensorStorageMetadata)  # safetensors hold nothing else
        held = sum(math.prod(chunk.sizes) for chunk in tensor.chunks)
        if held != math.prod(tensor.size):
            raise SpecError(
                f"{checkpoint}: holds {held} of the {math.prod(tensor.size)} elements of '{name}'; give another checkpoint"
            )


def _check_tensors(metadata: Metadata, wanted: dict[str, torch.Tensor], checkpoint: Path) -> None:
    """Compare with all ranks' tensors, so that every rank finds the same mistake and raises."""
    everyone: list[dict[str, tuple[int, ...]]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, {name: tuple(tensor.shape) for name, tensor in wanted.items()})
    ours = {name: shape for part in everyone for name, shape in part.items()}
    theirs = {
        name: tuple(tensor.size)
        for name, tensor in metadata.state_dict_metadata.items()
        if isinstance(tensor, TensorStorageMetadata)
    }
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise SpecError(
                f"{checkpoint}: is of another model: '{name}' has shape {theirs.get(name, 'absent')} there and {ours.get(name, 'absent')} in this plan's model"
            )
