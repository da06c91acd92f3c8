"""How tensor parallelism divides the modules of one layer, as data: read from transformers' own plan for the class.

`base_model_tp_plan` of a configuration maps paths to styles (transformers, distributed/tensor_parallel.py). `rules.py` adds what
it does not name, and divides what it gathers although the parts can be divided.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import nn
from transformers import PreTrainedModel

from shardwright.base import SpecError

Role = Literal[
    "column",
    "column_gathered",
    "row",
    "row_sliced",
    "by_head",
    "whole_norm",
    "latent",
    "experts",
    "packed",
    "once",
    "replicated",
]
"""What a module or a bare parameter does over tp.

column: its outputs are divided. column_gathered: and gathered again. row: its inputs are divided, and its outputs are partial
sums. row_sliced: its inputs are whole, and each rank takes its own columns. by_head: each rank applies it to its own heads.
whole_norm: a norm over the columns of all ranks. latent: DeepSeek's projection to the latent, whose rotary columns go to the
heads of each rank. experts: their widths are divided. packed: as column, of stacked gates and ups. once: added by one rank, the
output of a module or a bare parameter.
replicated: the same on all ranks. Of a bare parameter column and row cut the last dimension but one, and the last.
"""

_ROLES: Mapping[str, Role] = {
    "colwise": "column",
    "colwise_gather_output": "column_gathered",
    "colwise_rep": "column_gathered",
    "local_colwise": "column",
    "rowwise": "row",
    "local_rowwise": "row",
    "rowwise_split_input": "row_sliced",
    "rowwise_rep": "row_sliced",
    "packed_colwise": "packed",
    "replicated_with_grad_allreduce": "by_head",
    "mla_kv_a_proj": "latent",
    "moe_tp_experts": "experts",
    "moe_identity_expert": "once",
    "local_params": "replicated",
    "replicate": "replicated",
}


@dataclass(frozen=True, kw_only=True)
class Region:
    """One child of a layer that has matrices: attention or feed-forward.

    Attributes:
        roles: by path from the layer, of modules and bare parameters. Others are replicated.
        shares_input: every use of its input is divided, so that the gradients of the input are partial sums.
        rotary_columns: of a projection to the latent.
        derived: transformers' plan does not have these roles.
    """

    roles: Mapping[str, Role] = field(default_factory=dict)
    shares_input: bool = False
    rotary_columns: int = 0
    derived: bool = False

    @property
    def sums_output(self) -> bool:
        """Whether the output is one sum of all ranks' parts, so that each may get its own tokens of it."""
        return self.shares_input or "latent" in self.roles.values()


@dataclass(frozen=True)
class LayerDivision:
    """The division of one layer over tp.

    Under sequence parallelism a region gets the whole sequence. The other modules, norms, run on a part of it.
    """

    regions: Mapping[str, Region] = field(default_factory=dict)


def regions_of(layer: nn.Module) -> dict[str, nn.Module]:
    """Return by path the children of a layer that have matrices."""
    return {path: module for path, module in called_children(layer).items() if is_region(module)}


def called_children(layer: nn.Module) -> dict[str, nn.Module]:
    """Return the children of a layer by path, and for a list of modules each of them: nothing calls the list."""
    found: dict[str, nn.Module] = {}
    for path, module in layer.named_children():
        parts = module.named_children() if isinstance(module, nn.ModuleList) else [("", module)]
        found |= {f"{path}.{name}" if name else path: part for name, part in parts}
    return found


def is_region(module: nn.Module) -> bool:
    """Whether a child of a layer has matrices, unlike a norm."""
    return any(parameter.dim() > 1 for parameter in module.parameters())


def planned_roles(model: PreTrainedModel, layers: str, name: str) -> dict[str, Role]:
    """Return the roles of the class's plan by path from a layer of the list at `layers`, with `*` for numbers.

    Raises:
        SpecError: the plan has a style that is not supported; names the module.
    """
    prefix = f"{layers.rpartition('.')[2]}.*."
    planned: dict[str, Role] = {}
    for path, style in (model.config.base_model_tp_plan or {}).items():
        if not path.startswith(prefix):
            continue
        if style not in _ROLES:
            raise SpecError(
                f"{name}: '{path}' has the tp style '{style}' in transformers, which is not supported; plan with tp 1"
            )
        planned[path.removeprefix(prefix)] = _ROLES[style]
    return planned


def roles_within(region: str, module: nn.Module, planned: Mapping[str, Role]) -> dict[str, Role]:
    """Return the planned roles of the modules and bare parameters of a region, by path from the layer."""
    roles: dict[str, Role] = {}
    for path, part in module.named_modules(prefix=region):
        names = [path, *(f"{path}.{parameter}" for parameter, _ in part.named_parameters(recurse=False))]
        for name in names:
            if role := planned.get(re.sub(r"\.\d+(?=\.|$)", ".*", name)):
                roles[name] = role
    return roles
