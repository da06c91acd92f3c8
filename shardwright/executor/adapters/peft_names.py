"""Names and shapes of adapters: the engine's, and those of a file of PEFT."""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

_PREFIX = "base_model.model."
_OF_PEFT = re.compile(r"^base_model\.model\.(?P<path>.+)\.(?P<matrix>lora_A|lora_B)\.weight$")
_OF_ENGINE = re.compile(r"^(?P<path>.+)\.(?P<matrix>lora_A|lora_B)(?:_(?P<part>\d+)|_(?P<weight>[a-z_]+))?$")
_INNER, _OUTER = ".base_layer", "down_proj"
"""What PEFT calls the adapters of the first weight of a module that has two, which are inside those of the second."""


def is_adapter(name: str) -> bool:
    """Whether a parameter of the engine belongs to an adapter."""
    return name.rpartition(".")[2].startswith("lora_")


def peft_adapters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the adapters among full tensors of an engine under the names and in the shapes of PEFT: A (rank, inputs), B (outputs, rank)."""
    parts: dict[str, dict[int, Tensor]] = {}
    found = [(match, value) for name, value in state.items() if (match := _OF_ENGINE.match(name))]
    weights: dict[str, list[str]] = {}
    for match, _ in found:
        if match["weight"] and match["weight"] not in weights.setdefault(match["path"], []):
            weights[match["path"]].append(match["weight"])
    for match, value in found:
        path, matrix = match["path"], match["matrix"]
        if match["weight"]:
            path, own = expert_path(path, match["weight"], weights[path]), _unstacked(matrix, value)
        else:
            own = value.flatten(0, -2)  # of stacked queries, keys and values
        parts.setdefault(peft_name(path, matrix), {})[int(match["part"] or 0)] = own
    return {name: torch.cat([of_name[index] for index in sorted(of_name)]) for name, of_name in parts.items()}


def expert_path(path: str, weight: str, weights: Sequence[str]) -> str:
    """Return PEFT's path of the adapters of `weight`, one of the adapted `weights` of the experts at `path`."""
    return path if weight == _OUTER or len(weights) == 1 else f"{path}{_INNER}"


def expert_weight(path: str, weights: Sequence[str]) -> tuple[str, str]:
    """Invert `expert_path`: return the path of the experts, and the weight."""
    if path.endswith(_INNER):
        return path.removesuffix(_INNER), next(weight for weight in weights if weight != _OUTER)
    return path, _OUTER if _OUTER in weights else weights[0]


def _unstacked(matrix: str, value: Tensor) -> Tensor:
    """Return A (experts, rank, inputs) as (experts rank, inputs), B (experts, outputs, rank) as (outputs, rank experts)."""
    if matrix == "lora_A":
        return value.flatten(0, 1)
    return value.flatten(1, -2).permute(1, 2, 0).flatten(1)


def peft_name(path: str, matrix: str) -> str:
    """Return the name of `matrix`, lora_A or lora_B, of the linear at `path` in a file of PEFT."""
    return f"{_PREFIX}{path}.{matrix}.weight"


def engine_adapters(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return A and B by the path of their linear, of tensors by PEFT's names, all of which are pairs."""
    found = {
        (match["path"], match["matrix"]): value for name, value in tensors.items() if (match := _OF_PEFT.match(name))
    }
    return {path: (value, found[path, "lora_B"]) for (path, matrix), value in found.items() if matrix == "lora_A"}
