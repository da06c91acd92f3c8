"""A checkpoint read into a model with more layers: tensors by the names that the smaller model has for them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.distributed.tensor import DTensor

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile
from shardwright.costmodel.phases import LAYERS, OUTPUTS, GrownLayer, grown_layers
from shardwright.executor.model import read_skeleton

_PARAMETER = "model."
_LAYER = re.compile(r"(?P<before>.*\blayers\.)(?P<layer>\d+)(?P<after>\..+)")


@dataclass(frozen=True)
class Growth:
    """What each layer of a grown model comes from; empty where the model is that of the checkpoint."""

    layers: tuple[GrownLayer, ...]

    @classmethod
    def between(cls, smaller: PlanFile, larger: PlanFile) -> "Growth":
        """Return the growth from the model of one plan file to that of another."""
        return cls(grown_layers(*(int(file.model_config_json[LAYERS]) for file in (smaller, larger))))

    @property
    def copies(self) -> int:
        """The most new layers that come from one layer."""
        return max((layer.copy for layer in self.layers), default=0)

    def kept(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the tensors that the smaller model has too, by its names."""
        return self.of_copy(tensors, 0)

    def of_copy(self, tensors: Mapping[str, torch.Tensor], copy: int) -> dict[str, torch.Tensor]:
        """Return the tensors of all layers that are such a copy, by the names of what they come from. New layers have parameters alone: their
        optimizer begins anew."""
        found = {}
        for name, tensor in tensors.items():
            layer, source = self._origin(name)
            if layer.copy == copy and (not copy or name.startswith(_PARAMETER)):
                found[source] = tensor
        return found

    def silence(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Let new layers add nothing to what they are given: set what their output projections hold to zero."""
        for name, tensor in tensors.items():
            if (
                self._origin(name)[0].copy
                and name.startswith(_PARAMETER)
                and any(f".{part}." in name for part in OUTPUTS)
            ):
                (tensor.to_local() if isinstance(tensor, DTensor) else tensor).zero_()

    def _origin(self, name: str) -> tuple[GrownLayer, str]:
        """The layer that a tensor is of, as itself outside of any, and the name of what it comes from."""
        found = _LAYER.fullmatch(name)
        if found is None or not self.layers:
            return GrownLayer(0, 0), name
        layer = self.layers[int(found["layer"])]
        return layer, f"{found['before']}{layer.source}{found['after']}"


def check_growth(plan_file: PlanFile) -> None:
    """Check that the class of a grown model writes into the residual stream by the two projections that a new layer has as zeros.

    Raises:
        SpecError: its layers have other modules.
    """
    skeleton = read_skeleton(plan_file)
    layer = skeleton.model.get_submodule(f"{skeleton.structure.layers}.0")
    lacking = [part for part in OUTPUTS if not any(name == part for name, _ in layer.named_modules())]
    if lacking or not re.search(r"\blayers$", skeleton.structure.layers):
        raise SpecError(
            f"{plan_file.model_name} grows, and layers of its class have no {' or '.join(lacking or OUTPUTS)}; give all phases one model"
        )
