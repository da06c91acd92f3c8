"""Elementwise optimizers on this rank's own elements, as plain tensors: no rank needs another one for them."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from shardwright.specs import Optimizer

from .packages import adamw_8bit, in_fp32, lion, take_over


@contextmanager
def on_local_tensors(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Let an elementwise optimizer of torch update this rank's shards as plain tensors; its state is made of DTensors again afterwards.

    On DTensors, torch derives for each operator and parameter how the result is sharded: half of a small plan's first step, to no effect here.
    """
    groups, state = [group["params"] for group in optimizer.param_groups], optimizer.state
    own = {parameter: _with_gradient(parameter) for parameters in groups for parameter in parameters}
    optimizer.state = defaultdict(dict)
    for parameter, kept in state.items():
        optimizer.state[own[parameter]] = {name: _local(value) for name, value in kept.items()}
    for group, parameters in zip(optimizer.param_groups, groups, strict=True):
        group["params"] = [own[parameter] for parameter in parameters]
    try:
        yield
    finally:
        for group, parameters in zip(optimizer.param_groups, groups, strict=True):
            group["params"] = parameters
        updated, optimizer.state = optimizer.state, state
        for parameter, local in own.items():
            for name, value in updated.get(local, {}).items():
                state[parameter].setdefault(name, _like(parameter, value))


def _with_gradient(parameter: nn.Parameter) -> Tensor:
    """Return this rank's shard of a parameter, with that of its gradient."""
    local, gradient = _local(parameter), parameter.grad
    if isinstance(parameter, DTensor) and isinstance(gradient, DTensor):
        gradient = gradient.redistribute(placements=parameter.placements)
    local.grad = None if gradient is None else _local(gradient)
    return local


class LocalShards:
    """Lion, or AdamW with states in 8 bits, of parameters with their weight decay.

    The 256 elements that share a scale of a state in 8 bits are neighbours in this rank's shard. So other shards make other blocks, and
    a run under another plan differs by the rounding of these.
    """

    def __init__(
        self, decays: Mapping[nn.Parameter, float], optimizer: Optimizer, *, betas: tuple[float, float], eps: float
    ) -> None:
        self._own = {parameter: nn.Parameter(_local(parameter)) for parameter in decays}
        by_decay: dict[float, list[nn.Parameter]] = {}
        for parameter, decay in decays.items():
            by_decay.setdefault(decay, []).append(self._own[parameter])
        groups: list[dict[str, Any]] = [{"params": own, "weight_decay": decay} for decay, own in by_decay.items()]
        if optimizer.name == "lion":
            self._optimizer = lion(groups, betas=(optimizer["beta1"], optimizer["beta2"]))
        else:
            self._optimizer = adamw_8bit(groups, betas=betas, eps=eps)
        self._shown: dict[nn.Parameter, dict[str, Tensor]] = {}

    def step(self, learning_rate: float) -> None:
        """Update with the gradients that the parameters have."""
        self._step(learning_rate, {parameter: parameter.grad for parameter in self._own})

    def _step(self, learning_rate: float, gradients: Mapping[nn.Parameter, Tensor | None]) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        for parameter, own in self._own.items():
            gradient = gradients[parameter]
            own.data = _local(parameter)
            own.grad = None if gradient is None else _local(gradient)
        self._optimizer.step()
        for own in self._own.values():
            own.grad = None

    @property
    def state(self) -> Mapping[nn.Parameter, dict[str, Tensor]]:
        """The state of each parameter, cut as it is; in fp32, and then a copy, where it is kept in 8 bits."""
        self._shown = {
            parameter: {name: _like(parameter, in_fp32(value)) for name, value in self._optimizer.state[own].items()}
            for parameter, own in self._own.items()
            if own in self._optimizer.state
        }
        return self._shown

    def create_state(self) -> None:
        """Make the state as it is before the first step, by a step at rate zero that is not counted."""
        self._step(0.0, {parameter: torch.zeros_like(_local(parameter)) for parameter in self._own})
        for state in self._optimizer.state.values():
            if "step" in state:
                state["step"].zero_()

    def loaded(self) -> None:
        """Take over what was read into the tensors of `state`."""
        for parameter, shown in self._shown.items():
            for name, value in self._optimizer.state[self._own[parameter]].items():
                take_over(value, _local(shown[name]))


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local().detach() if isinstance(tensor, DTensor) else tensor.detach()


def _like(parameter: nn.Parameter, local: Tensor) -> Tensor:
    """Return this rank's part of a state as the parameter is cut; a number as it is."""
    if not isinstance(parameter, DTensor) or local.ndim != parameter.ndim:
        return local
    return DTensor.from_local(
        local,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )
