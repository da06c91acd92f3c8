"""Projections that transformers stores in one weight, kept in parts that tensor parallelism can divide.

An equal cut of such a weight would give one rank all queries, or all gates. The parts do not depend on the plan, so that a
checkpoint of one plan loads under another.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.pytorch_utils import Conv1D

_PART = re.compile(r"^(?P<owner>.*\.(?:qkv_proj|gate_up_proj|in_proj|conv1d))\.(?P<index>\d+)\.(?P<kind>weight|bias)$")
_STACKED_QKV = re.compile(r"\.c_attn\.(weight|bias)$")


class SplitLinear(nn.ModuleList):
    """A fused linear as one linear a part. Maps (batch, sequence, in) to the parts side by side."""

    def __init__(self, fused: nn.Linear, sizes: list[int]) -> None:
        parts = []
        biases = [None] * len(sizes) if fused.bias is None else torch.split(fused.bias.detach(), sizes)
        for weight, bias in zip(torch.split(fused.weight.detach(), sizes), biases, strict=True):
            part = nn.Linear(fused.in_features, len(weight), bias=bias is not None, device="meta")
            part.weight = nn.Parameter(weight.clone())
            if bias is not None:
                part.bias = nn.Parameter(bias.clone())
            parts.append(part)
        super().__init__(parts)

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.cat([part(hidden) for part in self], dim=-1)


class StackedQueryKeyValue(nn.Module):
    """GPT-2's projection of query, key and value, which lie side by side in one (hidden, 3 hidden) weight.

    Here the weight is (hidden, 3, hidden) and the bias (3, hidden): the same memory, reshaped. A cut along the last dimension
    gives every rank its own heads of all three.
    """

    def __init__(self, fused: Conv1D) -> None:
        super().__init__()
        self.weight = nn.Parameter(fused.weight.detach().view(fused.nx, 3, -1))
        self.bias = nn.Parameter(fused.bias.detach().view(3, -1))

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (batch, sequence, hidden) to this rank's (batch, sequence, 3 * heads * head size)."""
        weight, bias = self.weight.flatten(1), self.bias.flatten()
        return torch.addmm(bias, hidden.flatten(0, 1), weight).view(*hidden.shape[:2], -1)


class SplitConvolution(nn.ModuleList):
    """The convolution over queries, keys and values of linear attention, which has a filter for each channel, as one a part.

    Its code reads the filters, (channels, 1, kernel), and their biases, and does not call the module.
    """

    def __init__(self, fused: nn.Conv1d, sizes: list[int]) -> None:
        parts = []
        biases: Sequence[Tensor | None] = [None] * len(sizes)
        if fused.bias is not None:
            biases = torch.split(fused.bias.detach(), sizes)
        for weight, bias in zip(torch.split(fused.weight.detach(), sizes), biases, strict=True):
            part = nn.Conv1d(len(weight), len(weight), weight.shape[-1], groups=len(weight), bias=False, device="meta")
            part.weight = nn.Parameter(weight.clone())
            if bias is not None:
                part.bias = nn.Parameter(bias.clone())
            parts.append(part)
        super().__init__(parts)

    @property
    def weight(self) -> Tensor:
        return torch.cat([part.get_parameter("weight") for part in self])

    @property
    def bias(self) -> Tensor | None:
        biases: list[Tensor] = [bias for part in self for name, bias in part.named_parameters() if name == "bias"]
        return torch.cat(biases) if biases else None


def unfuse(layer: nn.Module, config: PreTrainedConfig) -> None:
    """Replace the fused linears of a layer of `config`'s model. Other modules stay.

    Stacked expert weights, (experts, 2 width, hidden), become (experts, 2, width, hidden).
    """
    for path, module in list(layer.named_modules()):
        name = path.rpartition(".")[2]
        parent: Any = layer.get_submodule(path.rpartition(".")[0])
        fused: nn.Module | None = None
        if isinstance(module, nn.Linear) and name == "qkv_proj":
            fused = SplitLinear(module, _query_key_value_sizes(module, config))
        elif isinstance(module, nn.Linear) and name == "gate_up_proj":
            fused = SplitLinear(module, [module.out_features // 2] * 2)
        elif isinstance(module, nn.Linear) and name == "in_proj" and is_state_space(parent):
            inner, groups = int(parent.intermediate_size), int(parent.n_groups * parent.ssm_state_size)
            fused = SplitLinear(module, [inner, inner, groups, groups, int(parent.num_heads)])
        elif isinstance(module, nn.Conv1d) and is_state_space(parent):
            inner, groups = int(parent.intermediate_size), int(parent.n_groups * parent.ssm_state_size)
            fused = SplitConvolution(module, [inner, groups, groups])
        elif isinstance(module, nn.Conv1d) and module.bias is None and is_linear_attention(parent):
            fused = SplitConvolution(module, [int(parent.key_dim)] * 2 + [int(parent.value_dim)])
        elif isinstance(module, Conv1D) and name == "c_attn" and module.nf == 3 * module.nx:
            fused = StackedQueryKeyValue(module)
        elif stacks_experts(module):
            stacked = module.get_parameter("gate_up_proj").detach().unflatten(1, (2, -1))
            module.register_parameter("gate_up_proj", nn.Parameter(stacked))
        if fused is not None:
            setattr(parent, name, fused)


def is_linear_attention(module: nn.Module) -> bool:
    """Whether `module` is linear attention whose projections have the columns of one key head after those of another."""
    return {"in_proj_qkvz", "in_proj_ba", "conv1d", "out_proj"} <= dict(module.named_children()).keys()


def is_state_space(module: nn.Module) -> bool:
    """Whether `module` is Mamba-2 as transformers writes it: one projection of gates, X, B, C and step sizes, in this order."""
    known = {"in_proj", "conv1d", "norm", "out_proj"} <= dict(module.named_children()).keys()
    return known and {"A_log", "D", "dt_bias"} <= dict(module.named_parameters(recurse=False)).keys()


def stacks_experts(module: nn.Module) -> bool:
    """Whether `module` holds gates and ups of all experts one after the other: (experts, 2 width, hidden) beside a down
    projection of (experts, hidden, width)."""
    up, down = module._parameters.get("gate_up_proj"), module._parameters.get("down_proj")
    if up is None or down is None or down.dim() != 3 or not getattr(module, "is_concatenated", True):
        return False
    return up.shape[1:] in ((2 * down.shape[2], down.shape[1]), (2, down.shape[2], down.shape[1]))


def _query_key_value_sizes(fused: nn.Linear, config: PreTrainedConfig) -> list[int]:
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    head_size = fused.out_features // (heads + 2 * kv_heads)
    return [heads * head_size, kv_heads * head_size, kv_heads * head_size]


def whole_weight(name: str, parameter: Tensor) -> Tensor:
    """Return a parameter of the engine in the shape that transformers' code computes with."""
    if name.endswith("gate_up_proj") and parameter.dim() == 4:
        return parameter.flatten(1, 2)
    return parameter


def hugging_face_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return full tensors by name, given as in an engine, under the names and in the shapes of Hugging Face's model.

    Several stages may hold the parts of a fused weight only together with all others of it, as layers are never divided.
    """
    own: dict[str, Tensor] = {}
    parts: dict[str, dict[int, Tensor]] = {}
    for name, value in state.items():
        if found := _PART.match(name):
            parts.setdefault(f"{found['owner']}.{found['kind']}", {})[int(found["index"])] = value
        elif _STACKED_QKV.search(name):
            own[name] = value.flatten(-2)
        else:
            own[name] = whole_weight(name, value)
    return own | {name: torch.cat([found[index] for index in sorted(found)]) for name, found in parts.items()}


def engine_state(state: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Invert `hugging_face_state`; `shapes` are those of the engine's full parameters by name."""
    own: dict[str, Tensor] = {}
    offsets: dict[str, int] = {}
    for name, shape in shapes.items():
        found: Any = _PART.match(name)
        if not found:
            own[name] = state[name].reshape(shape)
            continue
        whole = f"{found['owner']}.{found['kind']}"
        start = offsets.get(whole, 0)
        own[name] = state[whole][start : start + shape[0]]
        offsets[whole] = start + shape[0]
    return own
