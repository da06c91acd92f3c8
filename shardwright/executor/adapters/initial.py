"""The values that adapters start from: drawn from the seed, or read."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from shardwright.executor.model import drawing_from, seed_of

from .settings import AdapterSettings


class InitialAdapters(Protocol):
    """Gives the whole A (rank, inputs) and B (outputs, rank) of the linear at a path of the model, in fp32; of stacked `experts`
    A (experts rank, inputs) and B (outputs, rank experts), as PEFT has them."""

    @property
    def scale(self) -> float: ...

    def of(self, path: str, inputs: int, outputs: int, experts: int = 1) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class DrawnAdapters:
    """PEFT's initial values: A uniform as a linear of torch has it, B zero (peft/tuners/lora/layer.py, reset_lora_parameters).

    Each A draws from a generator seeded with (seed, path), so that it is the same under every plan.
    """

    settings: AdapterSettings
    seed: int
    device: torch.device

    @property
    def scale(self) -> float:
        return self.settings.scale

    def of(self, path: str, inputs: int, outputs: int, experts: int = 1) -> tuple[Tensor, Tensor]:
        rows = self.settings.rank * experts
        down = torch.empty(rows, inputs, device=self.device)
        with drawing_from(seed_of(self.seed, f"{path}.lora_A"), self.device):
            nn.init.kaiming_uniform_(down, a=math.sqrt(5))
        return down, torch.zeros(outputs, rows, device=self.device)


@dataclass(frozen=True)
class ReadAdapters:
    """Values of a folder in PEFT's format. `pairs`: A and B by path, which a check has compared with the model."""

    settings: AdapterSettings
    pairs: Mapping[str, tuple[Tensor, Tensor]]
    device: torch.device

    @property
    def scale(self) -> float:
        return self.settings.scale

    def of(self, path: str, inputs: int, outputs: int, experts: int = 1) -> tuple[Tensor, Tensor]:
        down, up = (tensor.to(self.device, torch.float32, copy=True) for tensor in self.pairs[path])
        rows = self.settings.rank * experts
        assert (down.shape, up.shape) == ((rows, inputs), (outputs, rows)), "the folder was compared with the model"
        return down, up
