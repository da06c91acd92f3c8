"""Weights to start from: a folder of Hugging Face's checked against a plan's model, and read shard by shard."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile
from shardwright.executor.model import DROPOUT_ENDINGS, Skeleton, build_on_meta, engine_state, read_config

from .conversion import module_tensors
from .folder import WeightsFolder, read_weights_folder

_OF_NO_WEIGHT = (
    "_name_or_path",
    "architectures",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "use_cache",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "initializer_range",
    "max_position_embeddings",
    "auto_map",
    "tokenizer_class",
    "pretraining_tp",
    "output_router_logits",
    "router_aux_loss_coef",
)
"""Keys of a configuration that change neither shapes nor what a forward pass computes of the weights."""


@dataclass(frozen=True)
class Pretrained:
    """Tensors of a folder under the names of the plan's model, in the shapes of transformers' module. `digest`: see `WeightsFolder`."""

    path: Path
    tensors: Mapping[str, Tensor]
    digest: str

    def for_engine(self, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
        """Return the tensors of the engine's parameters and buffers, of which `shapes` are the full shapes by name."""
        return engine_state(self.tensors, shapes)


def read_pretrained(folder: Path, plan_file: PlanFile, skeleton: Skeleton) -> Pretrained:
    """Check the headers of all files and return the tensors unread.

    Raises:
        SpecError: the folder's weights are not those of the plan's model, or cannot be read; names what differs.
    """
    found = read_weights_folder(folder)
    _check_config(found, plan_file, skeleton)
    tensors = module_tensors(skeleton.model, found.tensors, tied=skeleton.tied_names, source=str(folder))
    return Pretrained(folder, tensors, found.digest)


def _check_config(folder: WeightsFolder, plan_file: PlanFile, skeleton: Skeleton) -> None:
    """Refuse weights of another architecture, and of another computation, such as other rotary tables or norms.

    Raises:
        SpecError: names the first difference.
    """
    theirs, ours = folder.config.get("model_type"), plan_file.model_config_json.get("model_type")
    fix = f"plan with {folder.path / 'config.json'}"
    if theirs != ours:
        raise SpecError(
            f"{folder.path}: holds a {theirs}, and the plan's model {plan_file.model_name} is a {ours}; {fix}"
        )
    named = {"model_name": str(folder.path), "model_config_json": dict(folder.config)}
    other, own = _computes(read_config(plan_file.model_copy(update=named))), _computes(skeleton.config)
    if other != own:  # some classes complete their configuration when they are built
        read = read_config(plan_file.model_copy(update=named))
        other = _computes(build_on_meta(read, str(folder.path), kernel="eager").config)
    for key in sorted(other.keys() & own.keys()):  # what the class does not know is in one of them alone
        if other[key] != own[key]:
            raise SpecError(f"{folder.path}: its config has {key} {other[key]}, and the plan's model {own[key]}; {fix}")


def _computes(config: PreTrainedConfig) -> dict[str, Any]:
    left_out = (*_OF_NO_WEIGHT, *config.attribute_map)
    return {
        key: value
        for key, value in config.to_dict().items()
        if key not in left_out and not key.endswith(DROPOUT_ENDINGS)
    }
