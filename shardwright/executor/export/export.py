"""A folder in Hugging Face's layout, written whole or not at all."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import torch
from huggingface_hub import StateDictSplit, split_state_dict_into_shards_factory
from safetensors.torch import save_file
from torch import Tensor

from shardwright.base import SpecError, units
from shardwright.costmodel import PlanFile
from shardwright.executor.model import Skeleton, read_config, read_skeleton
from shardwright.executor.training import RunFolder
from shardwright.executor.weights import INDEX, elements
from shardwright.specs import NonNegativeInt, Spec

from .checkpoint import checkpoint_weights, pick_checkpoint
from .place import check_place, whole_folder

ExportType = Literal["fp32", "bf16", "fp16"]
_DTYPES: dict[ExportType, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_READABLE = 0o644
_SIZE = re.compile(r"(?=.*[1-9])\d{1,9}(\.\d{1,9})?[kmgt]b", re.ASCII | re.IGNORECASE)
"""Above 0. huggingface_hub reads more, such as sizes below 0."""
_PATTERN = "model{suffix}.safetensors"


class ExportOptions(Spec):
    """What is exported of a run, and how.

    to: the folder to write; new or empty. dtype: of the parameters. step: of the checkpoint; None: the newest. max_shard_size: of one
    file, as 5GB or 500MB (decimal); so much is in memory at once. merge: the mean of replicas that hold weights of their own.
    """

    to: Path
    dtype: ExportType = "fp32"
    step: NonNegativeInt | None = None
    max_shard_size: str = "5GB"
    merge: bool = False


def export_weights(run: Path, options: ExportOptions, *, progress: Callable[[str], None] = print) -> Path:
    """Write the weights of a checkpoint of the run in the folder `run`, with its config, and with the tokenizer and the generation
    config that lie beside the run. Returns the folder.

    Reads one file's tensors at a time. The folder has its name only when everything in it is complete and on the disk.

    Raises:
        SpecError: the run, the step or the folder is not valid for it, or a weight does not fit the type.
        RunFailedError: the disk is full or failed.
    """
    folder = RunFolder(run)
    if not folder.plan.is_file():
        raise SpecError(f"{run}: is no folder of a run (no {folder.plan.name}); give the folder that run --out wrote")
    check_place(options.to, run)
    plan_file = folder.read_plan()
    checkpoint = pick_checkpoint(folder.checkpoints, options.step)
    skeleton = read_skeleton(plan_file)
    weights, sources, replicas = checkpoint_weights(
        checkpoint, folder, plan_file, skeleton, _DTYPES[options.dtype], merge=options.merge
    )
    split = _split(weights, options.max_shard_size)
    with whole_folder(options.to) as partial:
        for file, names in split.filename_to_tensors.items():
            _write_shard(partial / file, {name: weights[name] for name in names}, options.dtype)
            for source in sources:
                source.close()
            progress(
                f"{file}: {len(names):,} of {len(weights):,} tensors, {units.size((partial / file).stat().st_size)}"
            )
        if split.is_sharded:
            index = {"metadata": split.metadata, "weight_map": dict(sorted(split.tensor_to_filename.items()))}
            (partial / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        _write_config(partial, plan_file, skeleton, options.dtype)
        for beside in folder.beside_weights():
            copy = shutil.copytree if beside.is_dir() else shutil.copyfile
            copy(beside, partial / beside.name)
    of = (
        ""
        if replicas == 1
        else f", the mean of {replicas} replicas"
        if options.merge
        else f", of the first of {replicas} replicas"
    )
    step = int(checkpoint.name.removeprefix("step-"))
    progress(f"{options.to}: {plan_file.model_name} after step {step}, in {options.dtype}{of}")
    return options.to


def _split(weights: Mapping[str, Tensor], largest: str) -> StateDictSplit:
    try:
        if not _SIZE.fullmatch(largest):
            raise ValueError(largest)
        return split_state_dict_into_shards_factory(
            dict(weights), get_storage_size=_size_bytes, filename_pattern=_PATTERN, max_shard_size=largest
        )
    except ValueError:
        raise SpecError(f"--max-shard-size '{largest}' is no size above 0; write it as 5GB or 500MB") from None


def _size_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _write_shard(path: Path, weights: Mapping[str, Tensor], dtype: ExportType) -> None:
    held = {}
    for name, tensor in weights.items():
        held[name] = elements(tensor).contiguous()
        if not held[name].isfinite().all():
            fits = "training has diverged: give an earlier --step" if dtype != "fp16" else "give --dtype bf16"
            raise SpecError(f"'{name}' has elements that are not finite in {dtype}; {fits}")
    save_file(held, path, metadata={"format": "pt"})
    path.chmod(_READABLE)  # safetensors makes files for their user alone


def _write_config(folder: Path, plan_file: PlanFile, skeleton: Skeleton, dtype: ExportType) -> None:
    config = read_config(plan_file)  # the skeleton's has no dropout
    config.architectures = [type(skeleton.model).__name__]
    config.dtype = _DTYPES[dtype]
    config.save_pretrained(folder)
