"""Names and shapes of adapters: the engine's, and those of a file of PEFT."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_PREFIX = "base_model.model."
_OF_PEFT = re.compile(r"^base_model\.model\.(?P<path>.+)\.(?P<matrix>lora_A|lora_B)\.weight$")
_OF_ENGINE = re.compile(r"^(?P<path>.+)\.(?P<matrix>lora_A|lora_B)(?:_(?P<part>\d+))?$")


def is_adapter(name: str) -> bool:
    """Whether a parameter of the engine belongs to an adapter."""
    return name.rpartition(".")[2].startswith("lora_")


def peft_adapters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the adapters among full tensors of an engine under the names and in the shapes of PEFT: A (rank, inputs), B (outputs, rank)."""
    parts: dict[str, dict[int, Tensor]] = {}
    for name, value in state.items():
        if found := _OF_ENGINE.match(name):
            own = value.flatten(0, -2)  # of stacked queries, keys and values
            parts.setdefault(f"{_PREFIX}{found['path']}.{found['matrix']}.weight", {})[int(found["part"] or 0)] = own
    return {name: torch.cat([of_name[index] for index in sorted(of_name)]) for name, of_name in parts.items()}


def peft_name(path: str, matrix: str) -> str:
    """Return the name of `matrix`, lora_A or lora_B, of the linear at `path` in a file of PEFT."""
    return f"{_PREFIX}{path}.{matrix}.weight"


def engine_adapters(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return A and B by the path of their linear, of tensors by PEFT's names, all of which are pairs."""
    found = {
        (match["path"], match["matrix"]): value for name, value in tensors.items() if (match := _OF_PEFT.match(name))
    }
    return {path: (value, found[path, "lora_B"]) for (path, matrix), value in found.items() if matrix == "lora_A"}
