"""The parameters' shards as FSDP2 holds them on a rank: what the engine reads and replaces of FSDP2's, in one place.

A parameter that leaves the device in part is filled in before each gather by FSDP2's extension for such tensors, the methods
`fsdp_pre_all_gather` and `fsdp_post_all_gather` of the local tensor. The rest is private to torch: the list of parameter groups, and the
local tensor of a DTensor.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

Fetch = Callable[[], Tensor]
"""Returns a shard on the device, flat and in fp32."""


class Shard:
    """One parameter's shard on this rank: `elements` fp32 values in the order of their memory.

    `stage` is the index of its stage among the rank's, `group` that of the parameters that FSDP2 gathers together. `steps` counts its
    updates, `arrived` the gradients of the step that have come.
    """

    def __init__(self, name: str, fsdp_parameter: Any, fsdp_group: Any, *, stage: int, group: int) -> None:
        self.name, self.stage, self.group = name, stage, group
        self.parameter: nn.Parameter = fsdp_parameter.sharded_param
        self.shape = self._local.shape
        self.elements = self._local.numel()
        self.weight_decay, self.steps, self.arrived = 0.0, 0, 0
        self._fsdp_parameter, self._fsdp_group = fsdp_parameter, fsdp_group

    @property
    def values(self) -> Tensor:
        """(elements,): the shard where FSDP2 holds it, until `leave` replaces it."""
        return self._local.reshape(-1)

    def park(self) -> None:
        """Move the values to the host until it is known what stays, so that no device holds all shards of a model at once."""
        if self._local.device.type != "cpu":
            self._replace(self._local.cpu())

    def unpark(self, device: torch.device) -> None:
        """Move the values back to the device. FSDP2 gathers a padded shard."""
        if self._local.device != device:
            padded = self._padded(self.values, device)
            local = padded.view(self._fsdp_parameter.padded_sharded_param_size)[: self.shape[0]]
            self._replace(local, gathered=padded)

    def leave(self, values: Tensor | None, fetch: Fetch) -> None:
        """Let `fetch` provide the shard for each gather. `values` (elements,) stands in its place, or nothing that holds memory."""
        local = torch.empty(self.shape, device="meta") if values is None else values.view(self.shape)
        extended: Any = local

        def before_gather(
            mesh: Any, outer_size: Any, outer_stride: Any, module: nn.Module, precision: Any
        ) -> tuple[tuple[Tensor, ...], None]:
            fetched = fetch()
            dtype = self._fsdp_parameter.param_dtype or fetched.dtype
            gathered = self._padded(fetched, fetched.device).to(dtype)
            return (gathered.view(self._fsdp_parameter.padded_sharded_param_size),), None

        extended.fsdp_pre_all_gather = before_gather
        extended.fsdp_post_all_gather = _after_gather
        self._replace(local)
        self._fsdp_parameter._init_extensions()
        self._fsdp_group._reset_sharded_params = True  # it would copy the local tensor into a padded one

    def on_gradient(self, call: Callable[[], None]) -> None:
        """Call after each reduction of the parameter's gradient."""
        self.parameter.register_post_accumulate_grad_hook(lambda _parameter: call())  # type: ignore[no-untyped-call]  # torch's

    def take_gradient(self) -> Tensor:
        """Return the gradient that FSDP2 has reduced, (elements,), and remove it from the parameter."""
        gradient, self.parameter.grad = self.parameter.grad, None
        assert isinstance(gradient, DTensor)
        return gradient._local_tensor.detach().reshape(-1)

    def compact_gradient(self) -> None:
        """Copy the gradient out of the buffer that FSDP2 reduced a group into, so that the rest of the buffer can go."""
        gradient = self.parameter.grad
        assert isinstance(gradient, DTensor)
        gradient._local_tensor = gradient._local_tensor.clone()

    def like(self, values: Tensor) -> DTensor:
        """Return (elements,) values, where they are, as a tensor that is divided over ranks as the parameter is."""
        divided: DTensor = self._fsdp_parameter.to_sharded_dtensor(values.view(self.shape))
        return divided

    @property
    def _local(self) -> Tensor:
        parameter = self.parameter
        assert isinstance(parameter, DTensor), "FSDP2 shards every parameter of a stage"
        return parameter._local_tensor.detach()

    def _padded(self, values: Tensor, device: torch.device) -> Tensor:
        """Return the shard on `device`, padded with zeros to the size of the first rank's."""
        padded_elements = self._fsdp_parameter.padded_sharded_param_size.numel()
        if padded_elements == values.numel():
            return values.to(device)
        padded = torch.zeros(padded_elements, device=device)
        padded[: values.numel()] = values
        return padded

    def _replace(self, local: Tensor, *, gathered: Tensor | None = None) -> None:
        parameter: Any = self.parameter
        parameter._local_tensor = local
        self._fsdp_parameter._sharded_param_data = local.reshape(-1) if gathered is None else gathered


def _after_gather(
    gathered: tuple[Tensor, ...], metadata: None, dtype: torch.dtype, *, out: Tensor | None = None
) -> tuple[Tensor, tuple[Tensor, ...]] | None:
    """FSDP2 has gathered into its own memory, which the parameter views."""
    return None if out is not None else (gathered[0], ())


def read_shards(stages: Sequence[nn.Module]) -> list[Shard]:
    """Return the shards of a rank's stages in the order in which forward passes first use them, without frozen weights that FSDP2
    does not hold."""
    found: dict[str, Shard] = {}
    groups = 0
    for index, stage in enumerate(stages):
        names = {id(parameter): name for name, parameter in stage.named_parameters()}
        for module in stage.modules():
            if isinstance(module, FSDPModule):
                for group in module._get_fsdp_state()._fsdp_param_groups:
                    for parameter in group.fsdp_params:
                        name = names[id(parameter.sharded_param)]
                        found[f"{index} {name}"] = Shard(name, parameter, group, stage=index, group=groups)
                    groups += 1
    named = (f"{index} {name}" for index, stage in enumerate(stages) for name, _ in stage.named_parameters())
    return [found[name] for name in named if name in found]


def park(module: nn.Module) -> None:
    """Move to the host the shards that FSDP2 has just made of the parameters of `module`."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            for group in part._get_fsdp_state()._fsdp_param_groups:
                for parameter in group.fsdp_params:
                    Shard("", parameter, group, stage=0, group=0).park()
