"""What transformers' plans leave out: rules by pairs of linears, around an activation or around attention.

The pair is that of Megatron-LM (Shoeybi et al. 2019, section 3), found by structure as Redco does (Tan et al. 2023, arXiv
2310.16355, section 3.1): the linears that read the input are divided by columns, the one that ends the region by rows.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from shardwright.base import SpecError

from .division import LayerDivision, Region, Role, planned_roles, regions_of, roles_within
from .fused import SplitLinear, StackedQueryKeyValue, is_linear_attention, is_state_space

_GATED: Mapping[str, Role] = {"gate_proj": "column", "up_proj": "column", "down_proj": "row"}
# DeepSeek-V2's plan; that of V3, whose attention has the same modules, leaves its attention out
_LATENT: Mapping[str, Role] = {
    "q_proj": "column",
    "q_b_proj": "column",
    "kv_a_proj_with_mqa": "latent",
    "kv_b_proj": "column",
    "o_proj": "row",
}
# gpt-oss: (experts, in, out) weights with gates and ups in turn, and biases
_BIASED_EXPERTS: Mapping[str, Role] = {
    "gate_up_proj": "row",
    "gate_up_proj_bias": "row",
    "down_proj": "column",
    "down_proj_bias": "once",
}
# columns of the projections lie by key head, and so do the heads of values behind them; of the bare parameters there is one a head
_DELTA_RULE: Mapping[str, Role] = {
    "in_proj_qkvz": "column",
    "in_proj_ba": "column",
    "conv1d": "column",
    "dt_bias": "row",
    "A_log": "row",
    "norm": "by_head",
    "out_proj": "row",
}
# every part of the projection by head or by group; the norm runs over the heads of each group
_STATE_SPACE: Mapping[str, Role] = {
    "in_proj": "column",
    "conv1d": "column",
    "dt_bias": "row",
    "A_log": "row",
    "D": "row",
    "norm.weight": "row",
    "out_proj": "row",
}
_PLAIN: Mapping[str, Role] = {"up_proj": "column", "down_proj": "row"}
_WHOLE: tuple[Role, ...] = ("column_gathered", "row_sliced", "latent", "experts", "packed", "once", "replicated")


def layer_division(model: PreTrainedModel, layer: nn.Module, layers: str, name: str) -> LayerDivision:
    """Return the division of `layer`, one of the list at the path `layers` of `model`, whose fused linears are split.

    Raises:
        SpecError: names the module that stands in the way.
    """
    planned = planned_roles(model, layers, name)
    return LayerDivision(
        {path: _region(path, module, planned, model.config, name) for path, module in regions_of(layer).items()}
    )


def _region(path: str, module: nn.Module, planned: Mapping[str, Role], config: PreTrainedConfig, name: str) -> Region:
    roles = roles_within(path, module, planned)
    given = dict(roles)
    _divide_what_is_gathered(roles, path, module)
    _add_known_parts(roles, path, module)
    if not roles:
        _pair_linears(roles, path, module)
    _find_norms(roles, path, module, config, name)
    divided = [role for role in roles.values() if role != "replicated"]
    owners = [
        (inner, part)
        for inner, part in module.named_modules(prefix=path)
        if next(part.parameters(recurse=False), None) is not None
    ]
    shares = bool(divided) and not any(role in _WHOLE for role in roles.values())
    shares = shares and all(_role_of(inner, part, roles) for inner, part in owners)
    derived = any(role != given.get(key) for key, role in roles.items())
    rotary = int(getattr(config, "qk_rope_head_dim", 0) or 0)
    return Region(roles=roles, shares_input=shares, rotary_columns=rotary, derived=derived)


def _role_of(path: str, module: nn.Module, roles: Mapping[str, Role]) -> bool:
    """Whether all parameters that a module owns have a role: its own, a fused linear's above it, or their own."""
    if path in roles or path.rpartition(".")[0] in roles:
        return True
    return all(f"{path}.{name}" in roles for name, _ in module.named_parameters(recurse=False))


def _divide_what_is_gathered(roles: dict[str, Role], path: str, module: nn.Module) -> None:
    """Divide projections that transformers gathers only because their parts lie in one weight, or a norm follows.

    Its plans gather the fused projections of Phi-3 and GLM, and the queries and keys that OLMo-2 normalises as a whole. Here
    fused projections are split, and such a norm takes its mean over all ranks.
    """
    parts = dict(module.named_modules(prefix=path))
    gathered = [key for key, role in roles.items() if role == "column_gathered"]
    ends = [key for key, role in roles.items() if role == "row_sliced"]
    normed = all(key in parts for key in (f"{path}.q_norm", f"{path}.k_norm"))
    can = all(isinstance(parts[key], SplitLinear) or normed for key in gathered)
    if gathered and ends and can:
        roles.update(dict.fromkeys(gathered, "column"))
        roles.update(dict.fromkeys(ends, "row"))


def _add_known_parts(roles: dict[str, Role], path: str, module: nn.Module) -> None:
    """Add gated feed-forwards, latent attention, attention's sinks and biased experts where they have no roles, and linear attention."""
    for inner, part in module.named_modules(prefix=path):
        if is_linear_attention(part):
            roles.update({f"{inner}.{name}": role for name, role in _DELTA_RULE.items()})
        if is_state_space(part):
            roles.update({f"{inner}.{name}": role for name, role in _STATE_SPACE.items()})
        names = {name for name, child in part.named_children() if isinstance(child, nn.Linear)}
        for known in (_GATED, _LATENT, _PLAIN):
            is_it = "kv_b_proj" in names if known is _LATENT else set(known) <= names
            is_it &= known is not _PLAIN or names == set(_PLAIN)
            if is_it and not any(f"{inner}.{name}" in roles for name in known):
                roles.update({f"{inner}.{name}": role for name, role in known.items() if name in names})
        bare = {name for name, _ in part.named_parameters(recurse=False)}
        if set(_BIASED_EXPERTS) <= bare and inner not in roles:
            roles.update({f"{inner}.{name}": role for name, role in _BIASED_EXPERTS.items()})
            roles[inner] = "experts"


def _pair_linears(roles: dict[str, Role], path: str, module: nn.Module) -> None:
    """Divide all linears by columns and the last by rows, where a region has at least two, and nothing else of matrices."""
    linears = {
        inner: part
        for inner, part in module.named_modules(prefix=path)
        if isinstance(part, (nn.Linear, Conv1D, SplitLinear, StackedQueryKeyValue)) and path != inner
    }
    linears = {inner: part for inner, part in linears.items() if inner.rpartition(".")[0] not in linears}
    others = [
        (name, parameter)
        for inner, part in module.named_modules(prefix=path)
        for name, parameter in part.named_parameters(recurse=False)
        if inner not in linears and inner.rpartition(".")[0] not in linears
    ]
    own = [name for name, _ in module.named_parameters(recurse=False)]
    if len(linears) < 2 or any(parameter.dim() > 1 for _, parameter in others) or set(own) - {"sinks"}:
        return
    *columns, row = linears
    roles.update(dict.fromkeys(columns, "column"))
    roles[row] = "row"
    for inner, part in module.named_modules(prefix=path):
        for name, parameter in part.named_parameters(recurse=False):
            if name == "sinks" and parameter.dim() == 1:  # one a head
                roles[f"{inner}.{name}"] = "row"


def _find_norms(roles: dict[str, Role], path: str, module: nn.Module, config: PreTrainedConfig, name: str) -> None:
    """Say of norms behind divided projections whether each head has its mean, or all of them together."""
    if "row" not in roles.values() or any(role in _WHOLE for role in roles.values()):
        return
    parts = dict(module.named_modules(prefix=path))
    widths = {_out_features(parts[key]) for key, role in roles.items() if role == "column" and key in parts}
    head_size: Any = getattr(parts[path], "head_dim", None) or getattr(config, "head_dim", None)
    for inner, part in parts.items():
        own = list(part.parameters(recurse=False))
        if _weighs_each_head(part, head_size):
            roles[f"{inner}.weight"] = "column"  # of (heads, head size)
        if _role_of(inner, part, roles) or not own or any(parameter.dim() > 1 for parameter in own):
            continue
        if own[0].numel() in widths:
            roles[inner] = "whole_norm"
        elif own[0].numel() == head_size:
            roles[inner] = "by_head"
        else:
            raise SpecError(f"{name}: '{inner}' of a layer cannot be divided over tp; plan with tp 1")


def _weighs_each_head(module: nn.Module, head_size: int | None) -> bool:
    """Whether a module is a norm of single heads, each with weights of its own (Cohere)."""
    own = dict(module.named_parameters(recurse=False))
    return (
        own.keys() == {"weight"}
        and own["weight"].dim() == 2
        and own["weight"].shape[1] == head_size
        and not isinstance(module, nn.Linear)
    )


def _out_features(module: nn.Module) -> int:
    return sum(part.out_features for part in module.modules() if isinstance(part, nn.Linear))
