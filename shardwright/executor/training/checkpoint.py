"""Checkpoints: trained parameters and optimizer state by parameter name, which any plan of the same model can load.

Frozen weights are not in them; they are made again from their source, which the manifest names.

A checkpoint is a folder `step-000010` of safetensors files and `checkpoint.json`. torch's distributed checkpoint has a
pickled index; this one has none, so that reading a checkpoint cannot run code from it.
"""

import contextlib
import math
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from shardwright.base import RunFailedError, SpecError
from shardwright.costmodel import PlanFile
from shardwright.executor.adapters import is_adapter
from shardwright.executor.offload import BEFORE_UPDATE, Contents
from shardwright.executor.replicas import Agreement
from shardwright.executor.weights import Growth, Pretrained, StoredReader

from .manifest import (
    MANIFEST,
    Manifest,
    checksum,
    complete_checkpoints,
    damaged_file,
    plan_digest,
    read_growing,
    sync,
)
from .optimizer import HostedOptimizer
from .packed_weights import packed_when_read

FILE_BYTES = 2**30
MODEL_PREFIX = "model."
REPLICA_PREFIX, _AGREEMENT_PREFIX = "replica-", "replicas."


class DamagedError(SpecError):
    """A file of a checkpoint is not as it was written. Raised on every rank, before anything is loaded."""


class Trainee(NamedTuple):
    """The contents of a checkpoint on this rank: its stages and their optimizer.

    `tied` maps the name of a tied parameter to the name under which it is saved. Under pipeline parallelism the first
    and the last stage have a copy each. `leaves_frozen`: weights that the training freezes are not saved. Those that their class never
    trains, such as the bias of ERNIE's router, are.

    `agreement`: what replicas exchange in place of gradients in full, for which this rank is of the one numbered `replica`. Its state is
    `replicas.NAME`. Where replicas hold weights of their own, those of all but the first are `replica-N.model.NAME`, and so is their
    optimizer state.
    """

    parts: Sequence[nn.Module]
    optimizer: HostedOptimizer
    tied: Mapping[str, str]
    leaves_frozen: bool = False
    agreement: Agreement | None = None
    replica: int = 0


def save_checkpoint(folder: Path, trainee: Trainee, manifest: Manifest, *, keep: int) -> Path:
    """Write `folder/step-NNNNNN` completely or not at all, then remove all but the newest `keep`. Every rank calls
    this.

    `manifest.files` is filled in here.

    Raises:
        RunFailedError: the checkpoint cannot be written, for example on a full disk.
    """
    return write_checkpoint(folder, tensors_of(trainee, step=manifest.step), manifest, keep=keep)


def write_checkpoint(
    folder: Path,
    tensors: dict[str, torch.Tensor],
    manifest: Manifest,
    *,
    keep: int,
    group: dist.ProcessGroup | None = None,
) -> Path:
    """Write the tensors that `tensors_of` returned, or copies of them, as `save_checkpoint` does. Nothing changes them meanwhile.

    `group`: of all ranks; its own where other collectives run beside this.

    Raises:
        RunFailedError: see `save_checkpoint`.
    """
    final = folder / f"step-{manifest.step:06d}"
    partial = folder / f".{final.name}.partial"
    fault = ""
    if dist.get_rank() == 0:
        try:
            _remove_leftovers(folder)
            partial.mkdir(parents=True)
        except OSError as error:
            fault = error.strerror or str(error)
    _raise_on_all(final, fault, group)
    writer = HuggingFaceStorageWriter(str(partial), _file_of_each(tensors, group), save_distributed=True)
    try:
        save(tensors, storage_writer=writer, process_group=group)
    except CheckpointException as error:
        raise RunFailedError(_unwritten(final, _first_cause(error))) from error
    files = _synced(partial, final, group)
    if dist.get_rank() == 0:
        try:
            _check_coverage(HuggingFaceStorageReader(str(partial)).read_metadata(), partial)
            _finish(partial, final, manifest.written(files))
        except OSError as error:
            fault = error.strerror or str(error)
    _raise_on_all(final, fault, group)
    if dist.get_rank() == 0:
        for old in complete_checkpoints(folder)[:-keep]:
            _remove(old)
    dist.barrier(group)
    return final


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint: first its name, at once, so that a kill leaves no part that looks whole. What cannot be removed stays."""
    with contextlib.suppress(OSError):
        shutil.rmtree(checkpoint.rename(checkpoint.with_name(f".{checkpoint.name}.removed")), ignore_errors=True)


def _remove_leftovers(folder: Path) -> None:
    """Remove what kills have left of checkpoints that were being written or removed."""
    for pattern in (".step-*.partial", ".step-*.removed"):
        for left in folder.glob(pattern):
            shutil.rmtree(left, ignore_errors=True)


def _synced(partial: Path, final: Path, group: dist.ProcessGroup | None) -> dict[str, tuple[int, int]]:
    """Put every file on the disk and return its bytes and checksum, by name. Each rank takes its share of the files.

    Raises:
        RunFailedError: on every rank, where a disk is full or failed.
    """
    found: dict[str, tuple[int, int]] = {}
    fault = ""
    try:
        for path in sorted(partial.iterdir())[dist.get_rank() :: dist.get_world_size()]:
            sync([path])
            found[path.name] = path.stat().st_size, checksum(path)
    except OSError as error:
        fault = f"rank {dist.get_rank()}: {error.strerror or error}"
    everyone: list[tuple[dict[str, tuple[int, int]], str]] = [({}, "")] * dist.get_world_size()
    dist.all_gather_object(everyone, (found, fault), group=group)
    fault = next((said for _, said in everyone if said), "")
    if fault:
        raise RunFailedError(_unwritten(final, fault))
    return {name: of_file for files, _ in everyone for name, of_file in files.items()}


def _raise_on_all(final: Path, fault: str, group: dist.ProcessGroup | None) -> None:
    """Raise on every rank what the first one met; the others would wait for it.

    Raises:
        RunFailedError: there is a fault.
    """
    told = [fault]
    dist.broadcast_object_list(told, group=group)
    if told[0]:
        raise RunFailedError(_unwritten(final, told[0]))


def _finish(partial: Path, final: Path, manifest: str) -> None:
    """Add the manifest and give the folder its name, on the disk too.

    Raises:
        OSError: the disk is full or failed.
    """
    (partial / MANIFEST).write_text(manifest, encoding="utf-8")
    sync([partial / MANIFEST, partial])
    _remove(final)  # a damaged one of the same step
    partial.rename(final)
    sync([final.parent])


def _unwritten(final: Path, cause: str) -> str:
    return f"{final}: cannot be written ({cause}); the checkpoints before it are whole"


def load_checkpoint(
    checkpoint: Path, trainee: Trainee, plan_file: PlanFile, grown_from: PlanFile | None = None
) -> Manifest:
    """Load parameters and optimizer from a checkpoint of any plan; return its manifest. Every rank calls this. `grown_from`: the checkpoint may be
    of the smaller model of the phase before, from which the model grows (`costmodel.phases.grown_layers`).

    Raises:
        SpecError: `read_manifest` refuses it, tensors are damaged, or names and shapes are of another model.
    """
    manifest, smaller = read_growing(checkpoint, plan_file, grown_from)
    _check_content(checkpoint, manifest)
    trainee.optimizer.create_state()
    contents = _contents(trainee)
    # of another plan only what all plans have is taken: the weights and the optimizer of the first replica
    alike = manifest.plan_digest == plan_digest(plan_file)
    wanted = tensors_of(trainee, contents, step=manifest.step if alike else None)
    reader = HuggingFaceStorageReader(str(checkpoint))
    try:
        metadata = reader.read_metadata()
        _check_coverage(metadata, checkpoint)
    except SpecError:
        raise
    except Exception as error:  # safetensors, json and torch each raise their own errors for a damaged header
        detail = " ".join(str(error).split())
        raise SpecError(f"{checkpoint}: is damaged ({detail}); give another checkpoint") from None
    for name in _buffers_of_all(trainee) - metadata.state_dict_metadata.keys():
        wanted.pop(name, None)  # checkpoints of earlier versions have none: they stay as the model's rule made them
    growth = Growth.between(grown_from, plan_file) if smaller and grown_from is not None else Growth(())
    _check_tensors(metadata, growth.kept(wanted), checkpoint, with_replicas=alike)
    try:
        for copy in range(growth.copies + 1):
            load(growth.of_copy(wanted, copy), storage_reader=reader)
    except CheckpointException as error:
        raise SpecError(f"{checkpoint}: cannot be read ({_first_cause(error)}); give another checkpoint") from None
    growth.silence(wanted)
    if contents is not None:
        contents.write_back(all_read=alike)
    trainee.optimizer.loaded()
    if trainee.agreement is not None and not alike:
        trainee.agreement.restart()
    return manifest


def load_pretrained(pretrained: Pretrained, trainee: Trainee, *, frozen_dtype: torch.dtype = torch.float32) -> None:
    """Read the parameters, but for adapters, and buffers of this rank's shards. Other elements are not read. Every rank calls this.

    Weights that lie in bytes are packed of what is read, in `frozen_dtype`.

    Raises:
        SpecError: a file cannot be read.
    """
    contents = _contents(trainee)
    wanted = {
        name.removeprefix(MODEL_PREFIX): tensor
        for name, tensor in tensors_of(trainee, contents, frozen=True).items()
        if name.startswith(MODEL_PREFIX) and not is_adapter(name)
    }
    in_bytes = [name for name, tensor in wanted.items() if tensor.dtype == torch.uint8]
    shapes = {name: tensor.shape for name, tensor in wanted.items()}
    stored = pretrained.for_engine(shapes | {name: pretrained.tensors[name].shape for name in in_bytes})
    stored |= {name: packed_when_read(stored[name], frozen_dtype) for name in in_bytes}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # each rank reads by itself
            load(wanted, storage_reader=StoredReader(stored), no_dist=True)
    except CheckpointException as error:
        raise SpecError(f"{pretrained.path}: cannot be read ({_first_cause(error)})") from None
    if contents is not None:
        contents.write_back(all_read=False)


def _check_content(checkpoint: Path, manifest: Manifest) -> None:
    """Check every file's checksum, each rank a share of them.

    Raises:
        DamagedError: on every rank, where a file is not as it was written.
    """
    faults: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(
        faults, damaged_file(checkpoint, manifest, part=dist.get_rank(), parts=dist.get_world_size())
    )
    fault = next(filter(None, faults), None)
    if fault:
        raise DamagedError(f"{checkpoint}: {fault}; give another checkpoint")


def _first_cause(error: CheckpointException) -> str:
    """Return the first rank's error in one line; torch collects all ranks' errors with their tracebacks."""
    rank, (cause, _) = min(error.failures.items())
    said = getattr(cause, "strerror", None) or str(cause)
    return f"rank {rank}: {' '.join(said.split())}"


def _contents(trainee: Trainee) -> Contents | None:
    offload = trainee.optimizer.offload
    return None if offload is None else Contents(offload, trainee.optimizer.device_state)


def tensors_of(
    trainee: Trainee, contents: Contents | None = None, *, frozen: bool = False, step: int | None = None
) -> dict[str, torch.Tensor]:
    """Return this rank's trained parameters (with `frozen` the others too) and persistent buffers as `model.NAME`, and optimizer state as
    `optimizer.NAME.KIND`. After a `step`, with what replicas hold apart and what they exchange (`Trainee`), and what passes read beside a delayed
    update."""
    contents = contents or _contents(trainee)
    state = trainee.optimizer.device_state
    tensors: dict[str, torch.Tensor] = {}
    for full_name, parameter in (named for part in trainee.parts for named in part.named_parameters()):
        if trainee.leaves_frozen and not (parameter.requires_grad or frozen):
            continue
        name = trainee.tied.get(full_name, full_name)
        held = None if contents is None else contents.of(parameter)
        if held is None:
            held = {"": parameter.detach(), **state.get(parameter, {})}
        for kind, value in held.items():
            if isinstance(value, torch.Tensor) and (kind != BEFORE_UPDATE or step is not None):
                tensors[f"optimizer.{name}.{kind}" if kind else f"{MODEL_PREFIX}{name}"] = value
    tensors |= _buffers(trainee)
    if trainee.agreement is None or step is None:
        return tensors
    if trainee.agreement.apart and trainee.replica:
        tensors = {f"{REPLICA_PREFIX}{trainee.replica}.{name}": tensor for name, tensor in tensors.items()}
    return tensors | {f"{_AGREEMENT_PREFIX}{name}": of for name, of in trainee.agreement.state(step).items()}


def _buffers(trainee: Trainee) -> dict[str, torch.Tensor]:
    """Return the buffers that belong to the model's weights, such as the bias of a router."""
    return {
        f"{MODEL_PREFIX}{path}.{name}": buffer
        for part in trainee.parts
        for path, module in part.named_modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name not in module._non_persistent_buffers_set
    }


def _buffers_of_all(trainee: Trainee) -> set[str]:
    """Return the names of buffers that any rank holds, as ranks load what another one saved."""
    everyone: list[list[str]] = [[]] * dist.get_world_size()
    dist.all_gather_object(everyone, sorted(_buffers(trainee)))
    return {name for names in everyone for name in names}


def _file_of_each(tensors: Mapping[str, torch.Tensor], group: dist.ProcessGroup | None) -> dict[str, int]:
    """Assign each tensor of the model to one of a rank's files, from 1. Files
    are built in memory, so they stay small."""
    local = {name: _local_bytes(tensor) for name, tensor in tensors.items()}
    everyone: list[dict[str, int]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, local, group=group)
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


def _check_tensors(
    metadata: Metadata, wanted: dict[str, torch.Tensor], checkpoint: Path, *, with_replicas: bool
) -> None:
    """Compare with all ranks' tensors, so that every rank finds the same mistake and raises."""
    everyone: list[dict[str, tuple[int, ...]]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, {name: tuple(tensor.shape) for name, tensor in wanted.items()})
    ours = {name: shape for part in everyone for name, shape in part.items()}
    theirs = {
        name: tuple(tensor.size)
        for name, tensor in metadata.state_dict_metadata.items()
        if isinstance(tensor, TensorStorageMetadata)
        and (
            with_replicas
            or not (name.startswith((REPLICA_PREFIX, _AGREEMENT_PREFIX)) or name.endswith(f".{BEFORE_UPDATE}"))
        )
    }
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise SpecError(
                f"{checkpoint}: is of another model: '{name}' has shape {theirs.get(name, 'absent')} there and {ours.get(name, 'absent')} in this plan's model"
            )
