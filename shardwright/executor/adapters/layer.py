"""The linears of a layer that have adapters, and their forward pass with these."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

from shardwright.executor.model import ADAPTER_A, ADAPTER_B, SplitLinear, StackedQueryKeyValue
from shardwright.specs import Trainable

from .experts import adapted_experts, attach_to_experts
from .initial import InitialAdapters
from .peft_names import is_adapter

_QUERY_KEY_VALUE = ("q_proj", "k_proj", "v_proj")
_ATTENTION: Mapping[str, tuple[str, ...]] = {
    **{name: (name,) for name in (*_QUERY_KEY_VALUE, "q_a_proj", "q_b_proj", "kv_a_proj", "kv_b_proj", "o_proj")},
    **dict.fromkeys(("qkv_proj", "c_attn", "query_key_value", "Wqkv"), _QUERY_KEY_VALUE),
    **dict.fromkeys(("c_proj", "dense", "out_proj"), ("o_proj",)),
    "kv_a_proj_with_mqa": ("kv_a_proj",),
}
_FEED_FORWARD: Mapping[str, tuple[str, ...]] = {
    **{name: (name,) for name in ("gate_proj", "up_proj", "down_proj")},
    "gate_up_proj": ("gate_proj", "up_proj"),
    **dict.fromkeys(("c_fc", "dense_h_to_4h", "fc1"), ("up_proj",)),
    **dict.fromkeys(("c_proj", "dense_4h_to_h", "fc2"), ("down_proj",)),
}
"""The targets of a training spec that a linear of transformers computes, by the linear's name."""


class LinearSizes(NamedTuple):
    """`outputs`: of each part that the engine keeps by itself. `experts`: whose linears lie in one weight."""

    inputs: int
    outputs: tuple[int, ...]
    experts: int = 1


def adapted_linears(layer: nn.Module, trainable: Trainable) -> dict[str, nn.Module]:
    """Return the linears of a layer that have an adapter, by path from the layer. A fused one has it for any of its parts."""
    return {path: module for path, module in layer.named_modules() if _adapts(path, module, trainable)}


def _adapts(path: str, module: nn.Module, trainable: Trainable) -> bool:
    if not isinstance(module, (nn.Linear, Conv1D, SplitLinear, StackedQueryKeyValue)):
        return False
    known = _ATTENTION if "attn" in path or "attention" in path else _FEED_FORWARD
    targets = known.get(path.rpartition(".")[2], ())
    return bool(targets) and trainable.adapts(*targets)


def sizes_of(module: nn.Module) -> LinearSizes:
    """Return the inputs and outputs of a linear, whole."""
    own: Any = module
    if isinstance(module, SplitLinear):
        parts: list[Any] = list(module)
        return LinearSizes(parts[0].in_features, tuple(part.out_features for part in parts))
    if isinstance(module, StackedQueryKeyValue):
        inputs, parts_of_output, width = own.weight.shape
        return LinearSizes(inputs, (width,) * parts_of_output)
    if isinstance(module, Conv1D):
        return LinearSizes(own.nx, (own.nf,))
    return LinearSizes(own.in_features, (own.out_features,))


def attach_adapters(layer: nn.Module, path: str, trainable: Trainable, initial: InitialAdapters) -> None:
    """Give the linears and experts of `layer`, whole and at `path` of the model, their adapters. Others stay."""
    for inner, module in adapted_experts(layer, trainable).items():
        attach_to_experts(module, f"{path}.{inner}", trainable, initial)
    for inner, module in adapted_linears(layer, trainable).items():
        sizes = sizes_of(module)
        down, up = initial.of(f"{path}.{inner}", sizes.inputs, sum(sizes.outputs))
        module.register_parameter(ADAPTER_A, nn.Parameter(down))
        for name, part in engine_parts(module, up).items():
            module.register_parameter(name, nn.Parameter(part))
        _add_adapter(module, initial.scale)


def engine_parts(module: nn.Module, up: Tensor) -> dict[str, Tensor]:
    """Return B (outputs, rank) of a linear by the names and in the shapes of the engine."""
    if isinstance(module, SplitLinear):
        parts = torch.split(up, list(sizes_of(module).outputs))
        return {f"{ADAPTER_B}_{index}": part.clone() for index, part in enumerate(parts)}
    if isinstance(module, StackedQueryKeyValue):
        return {ADAPTER_B: up.view(len(sizes_of(module).outputs), -1, up.shape[-1])}
    return {ADAPTER_B: up}


def _add_adapter(module: nn.Module, scale: float) -> None:
    """Add s B (A x) to the module's output: what PEFT runs (peft/tuners/lora/layer.py, Linear.forward), and what is charged."""
    plain = module.forward

    def forward(hidden: Tensor) -> Tensor:
        down, *ups = (own for name, own in module._parameters.items() if own is not None and is_adapter(name))
        reduced = linear(hidden, down)
        added = [linear(reduced, up.flatten(0, -2)) for up in ups]
        output: Tensor = plain(hidden) + (added[0] if len(added) == 1 else torch.cat(added, dim=-1)) * scale
        return output

    module.forward = forward
