"""The weights of a checkpoint under the names and in the shapes of Hugging Face's, each put together from its shards when it is read."""

import re
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import MetadataIndex, TensorStorageMetadata

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile
from shardwright.executor.model import Skeleton, hugging_face_state
from shardwright.executor.training import (
    MODEL_PREFIX,
    REPLICA_PREFIX,
    RunFolder,
    complete_checkpoints,
    damaged_file,
    read_manifest,
)
from shardwright.executor.weights import Mean, Node, Pieces, StoredTensor, TensorFile, checkpoint_tensors

from .merged import merged_weights

_OF_REPLICA = re.compile(rf"{REPLICA_PREFIX}(\d+)\.(.+)")


def pick_checkpoint(folder: Path, step: int | None) -> Path:
    """Return the newest complete checkpoint in `folder`, or the one after `step`.

    Raises:
        SpecError: there is none; names those that there are.
    """
    found = {int(path.name.removeprefix("step-")): path for path in complete_checkpoints(folder)}
    if not found:
        raise SpecError(f"{folder}: holds no complete checkpoint; train with --checkpoint-every, or give another run")
    if step is None:
        return found[max(found)]
    if step not in found:
        raise SpecError(
            f"{folder}: holds no checkpoint after step {step}; give --step {' or '.join(map(str, sorted(found)))}"
        )
    return found[step]


class CheckpointWeights(NamedTuple):
    """The model's weights by name, unread, the files that they are in, and of how many replicas the checkpoint holds weights."""

    weights: dict[str, Tensor]
    files: list[TensorFile]
    replicas: int


def checkpoint_weights(
    checkpoint: Path,
    folder: RunFolder,
    plan_file: PlanFile,
    skeleton: Skeleton,
    dtype: torch.dtype,
    *,
    merge: bool = False,
) -> CheckpointWeights:
    """Return the model's weights as `save_pretrained` would name and shape them, tied ones once.

    Where replicas held weights of their own, they are those of the first one, or with `merge` the mean of all.

    Parameters come in `dtype`, buffers such as the bias of a router in fp32. Adapters are added to their weights.

    Raises:
        SpecError: the checkpoint is of another model, damaged, or not complete; there is nothing to add its adapters to, or to merge.
    """
    manifest = read_manifest(checkpoint, plan_file)
    if fault := damaged_file(checkpoint, manifest):
        raise SpecError(f"{checkpoint}: {fault}; give another --step")
    wanted = skeleton.model.state_dict()
    stored, files, replicas = _stored(checkpoint, merge=merge)
    if merge and replicas == 1:
        raise SpecError(
            f"{checkpoint}: holds the weights of one replica, and --merge takes the mean of several; leave it out"
        )
    if manifest.trainable == "all":
        own = hugging_face_state(stored)
    else:
        own = merged_weights(stored, manifest, folder, plan_file, skeleton)
    absent = sorted(wanted.keys() - own.keys() - skeleton.tied_names.keys())
    if absent:
        raise SpecError(
            f"{checkpoint}: has no '{absent[0]}', which earlier versions did not write; take one more step with this version, and export that"
        )
    buffers = {name for name, _ in skeleton.model.named_buffers()}
    cast = {name: value if name in buffers else value.to(dtype) for name, value in own.items()}
    for name, value in cast.items():
        assert value.shape == wanted[name].shape, f"{name}: the manifest is of the same model"
    return CheckpointWeights(checkpoint_tensors(skeleton.model, cast), files, replicas)


def _stored(checkpoint: Path, *, merge: bool) -> tuple[dict[str, Tensor], list[TensorFile], int]:
    """Return the parameters and buffers of a checkpoint by the engine's names, its files, and the number of replicas in it."""
    metadata = HuggingFaceStorageReader(str(checkpoint)).read_metadata()
    files: dict[str, TensorFile] = {}
    tensors: dict[str, list[Node]] = {}
    replicas: set[str] = set()
    for key, found in metadata.state_dict_metadata.items():
        replica, name = _replica_and_name(key)
        replicas.add(replica)
        if not name.startswith(MODEL_PREFIX) or (replica and not merge):
            continue
        assert isinstance(found, TensorStorageMetadata)  # safetensors hold nothing else
        pieces = []
        for chunk in found.chunks:
            path = metadata.storage_data[MetadataIndex(key, offset=list(chunk.offsets))].relative_path
            file = files.setdefault(path, TensorFile(Path(path)))
            pieces.append((tuple(chunk.offsets), file.tensor(key)))
        tensors.setdefault(name.removeprefix(MODEL_PREFIX), []).append(Pieces(tuple(found.size), pieces))
    whole: dict[str, Tensor] = {
        name: StoredTensor(Mean(nodes) if len(nodes) > 1 else nodes[0]) for name, nodes in tensors.items()
    }
    return whole, list(files.values()), len(replicas)


def _replica_and_name(key: str) -> tuple[str, str]:
    """Return the number of a replica as text, empty for the first one, and the name that a tensor has in the first one."""
    found = _OF_REPLICA.fullmatch(key)
    return (found[1], found[2]) if found else ("", key)
