"""Adapters of experts whose weights lie stacked: a matrix A and a B for each expert, in grouped matmuls.

Of an expert's weight PEFT adapts W + s B A (peft/tuners/lora/layer.py, ParamWrapper: `target_parameters`), a sum that it makes
of all experts in each pass. Here each token has s B (A x) added, which is the same and as small as its rank. Gates and ups lie in one
weight, and have one A.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.integrations.moe import _grouped_linear

from shardwright.executor.experts import experts_paths
from shardwright.executor.model import ADAPTER_A, ADAPTER_B, stacks_experts
from shardwright.specs import Trainable

from .initial import InitialAdapters
from .peft_names import expert_path

EXPERT_WEIGHTS: Mapping[str, tuple[str, ...]] = {
    "gate_up_proj": ("gate_proj", "up_proj"),
    "down_proj": ("down_proj",),
}
"""Weights of stacked experts with the targets of a training spec that each computes, in the order in which a module holds them."""


class ExpertSizes(NamedTuple):
    """Of the adapters of one stacked weight."""

    experts: int
    inputs: int
    outputs: int


def expert_weights(trainable: Trainable) -> list[str]:
    """Return the weights of stacked experts that have adapters."""
    return [weight for weight, targets in EXPERT_WEIGHTS.items() if trainable.adapts(*targets)]


def adapted_experts(layer: nn.Module, trainable: Trainable) -> dict[str, nn.Module]:
    """Return the modules of a layer that hold stacked experts with adapters, by path from the layer."""
    if not expert_weights(trainable):
        return {}
    return {path: layer.get_submodule(path) for path in experts_paths(layer)}


def computes_grouped(module: nn.Module) -> bool:
    """Whether transformers' grouped matmuls compute these experts: gated ones without a norm behind them."""
    return getattr(module, "has_gate", False) and not getattr(module, "has_post_expert_norm", True)


def expert_sizes(module: nn.Module, trainable: Trainable) -> Iterator[tuple[str, ExpertSizes]]:
    """Yield each adapted weight of stacked experts with its whole sizes, whether or not gates and ups are apart."""
    for weight in expert_weights(trainable):
        experts, *sizes = module.get_parameter(weight).shape
        if len(sizes) == 3:
            sizes = [sizes[0] * sizes[1], sizes[2]]
        inputs, outputs = sizes if _is_transposed(module) else reversed(sizes)
        yield weight, ExpertSizes(experts, inputs, outputs)


def attach_to_experts(module: nn.Module, path: str, trainable: Trainable, initial: InitialAdapters) -> None:
    """Give the stacked experts at `path` of the model, whole, their adapters: A (experts, rank, inputs), and B (experts, outputs,
    rank), whose gates and ups are apart as those of the weight are."""
    weights = expert_weights(trainable)
    for weight, sizes in list(expert_sizes(module, trainable)):
        down, up = initial.of(expert_path(path, weight, weights), sizes.inputs, sizes.outputs, sizes.experts)
        down, stacked = stacked_pair(down, up, sizes.experts)
        if weight == "gate_up_proj" and stacks_experts(module):
            stacked = stacked.view(sizes.experts, 2, -1, stacked.shape[-1])
        module.register_parameter(f"{ADAPTER_A}_{weight}", nn.Parameter(down))
        module.register_parameter(f"{ADAPTER_B}_{weight}", nn.Parameter(stacked))
    _add_adapters(module, initial.scale)


def stacked_pair(down: Tensor, up: Tensor, experts: int) -> tuple[Tensor, Tensor]:
    """Return A (experts rank, inputs) and B (outputs, rank experts) of PEFT as (experts, rank, inputs) and (experts, outputs, rank)."""
    return down.view(experts, -1, down.shape[-1]), up.view(len(up), -1, experts).permute(2, 0, 1).contiguous()


def _is_transposed(module: nn.Module) -> bool:
    return bool(getattr(module, "is_transposed", False))


def _add_adapters(module: nn.Module, scale: float) -> None:
    """Compute as transformers does in grouped matmuls (integrations/moe.py, grouped_mm_experts_forward), each with its adapter."""
    own: Any = module

    def linear(weight: str, rows: Tensor, experts: Tensor, offsets: Tensor) -> Tensor:
        bias = getattr(module, f"{weight}_bias")[experts] if own.has_bias else None
        parameter: Tensor = getattr(module, weight)
        output = _grouped_linear(rows, parameter, offsets, bias=bias, is_transposed=own.is_transposed)
        down, up = (module._parameters.get(f"{matrix}_{weight}") for matrix in (ADAPTER_A, ADAPTER_B))
        if down is None or up is None:
            return output
        reduced = _grouped_linear(rows, down, offsets)
        added = _grouped_linear(reduced, up.flatten(1, -2), offsets)
        return output + added * scale

    def forward(hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        experts, order = torch.sort(top_k_index.reshape(-1))
        rows = hidden_states[order // top_k_index.size(-1)]
        counted = experts.float() if experts.device.type == "cpu" else experts.int()  # as histc has it
        counts = torch.histc(counted, bins=own.num_experts, min=0, max=own.num_experts - 1)
        offsets = torch.cumsum(counts, dim=0, dtype=torch.int32)
        activated = own._apply_gate(linear("gate_up_proj", rows, experts, offsets))
        weighted = linear("down_proj", activated, experts, offsets) * top_k_weights.reshape(-1)[order].unsqueeze(-1)
        back = torch.empty_like(order)
        back[order] = torch.arange(order.size(0), device=order.device)
        output = weighted[back].view(*top_k_index.shape, -1).sum(dim=1)
        return output.to(hidden_states.dtype)

    module.forward = forward
