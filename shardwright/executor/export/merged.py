"""Frozen weights with what was trained beside them: each adapter is added to its weight when that is read."""

from collections.abc import Mapping

import torch
from torch import Tensor

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile
from shardwright.executor.adapters import (
    adapted_weight,
    engine_adapters,
    is_adapter,
    merged_weight,
    peft_adapters,
    stacked_pair,
)
from shardwright.executor.model import Skeleton, hugging_face_state
from shardwright.executor.training import Manifest, RunFolder, frozen_content, frozen_from
from shardwright.executor.weights import Node, Region, StoredTensor, elements, read_pretrained


def merged_weights(
    stored: Mapping[str, Tensor], manifest: Manifest, folder: RunFolder, plan_file: PlanFile, skeleton: Skeleton
) -> dict[str, Tensor]:
    """Return all weights of a run that trained a part of them, by the names of transformers' module, unread.

    `stored`: what the checkpoint holds, by the engine's names. The frozen weights are those of the folder that the run started from.

    Raises:
        SpecError: they were drawn from a seed, or the folder is not there any more, or holds others.
    """
    options = folder.read_options()
    if options.init_from is None:
        raise SpecError(
            f"{folder.path}: trained {manifest.trainable} beside weights that were drawn from {manifest.frozen_from}; run with --init-from, or "
            "export the adapters alone (export-adapters)"
        )
    now = frozen_from(plan_file, options)
    if frozen_content(now) != frozen_content(manifest.frozen_from):
        raise SpecError(
            f"{folder.path}: its frozen weights were {manifest.frozen_from}, and now it is {now}; put them back"
        )
    frozen = dict(read_pretrained(options.init_from, plan_file, skeleton).tensors)
    trained = hugging_face_state({name: tensor for name, tensor in stored.items() if not is_adapter(name)})
    if manifest.adapters is None:
        return frozen | trained
    pairs = engine_adapters(
        peft_adapters({name: elements(tensor) for name, tensor in stored.items() if is_adapter(name)})
    )
    for path, (down, up) in pairs.items():
        name, transposed = adapted_weight(path, skeleton, plan_file.training.trainable)
        weight = frozen[name].to(torch.float32)
        if weight.dim() == 3:
            down, up = stacked_pair(down, up, len(weight))
        frozen[name] = StoredTensor(_Merged(weight, down, up, manifest.adapters.scale, transposed=transposed))
    return frozen | trained


class _Merged(Node):
    """A weight, and what its adapter adds to a region of it."""

    def __init__(self, weight: Tensor, down: Tensor, up: Tensor, scale: float, *, transposed: bool) -> None:
        self.shape, self.dtype = tuple(weight.shape), weight.dtype
        self._weight, self._down, self._up, self._scale, self._transposed = weight, down, up, scale, transposed

    def read(self, region: Region) -> Tensor:
        experts, (outputs, inputs) = region[:-2], region[:-3:-1] if self._transposed else region[-2:]
        return merged_weight(
            elements(self._weight, region),
            self._down[(*experts, slice(None), inputs)],
            self._up[(*experts, outputs)],
            self._scale,
            transposed=self._transposed,
        )
