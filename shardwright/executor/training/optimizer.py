"""The optimizer of a plan's training."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from shardwright.executor import RunOptions
from shardwright.executor.offload import OffloadEngine, UpdateRule
from shardwright.executor.optimizers import LayerwiseUpdates, LocalShards, WholeMatrices, matrices_of, on_local_tensors
from shardwright.specs import Optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def build_optimizer(parts: Sequence[nn.Module], method: Optimizer | str, options: RunOptions) -> torch.optim.Optimizer:
    """Return AdamW, by torch's fused kernel on GPU and CPU alike, or SGD over all parameters of this rank's `parts`.

    Weight decay acts on matrices only. Norms and biases have none, also biases of stacked projections and experts.
    """
    decays = _decays(_named(parts), options.weight_decay)
    return _optimizer(_groups(zip(decays, decays, strict=True), decays), _read(method), options)


def host_optimizer(
    parts: Sequence[nn.Module],
    method: Optimizer | str,
    options: RunOptions,
    offload: OffloadEngine | None,
    *,
    scaled: bool = False,
) -> "HostedOptimizer":
    """Return the optimizer, of which the engine `offload` updates what has left the device. `method`: as in a training, or its text.

    It does so while backward passes run, if neither clipping nor a `scaled` loss waits for the norm of all gradients.
    """
    method = _read(method)
    if method.layerwise:
        matrices = matrices_of(parts, method) if method.whole_matrix else None
        each = partial(_special, matrices=matrices, method=method, options=options)
        hosted = HostedOptimizer(None, None, LayerwiseUpdates(parts, each))
    elif method.whole_matrix or method.name in ("lion", "adamw8bit"):
        matrices = matrices_of(parts, method) if method.whole_matrix else None
        hosted = _special(_named(parts), matrices=matrices, method=method, options=options)
    else:
        hosted = _hosted(parts, method, options, offload, scaled=scaled)
    if scaled:  # a checkpoint may come before the first update
        hosted.create_state()
    return hosted


def _read(method: Optimizer | str) -> Optimizer:
    return method if isinstance(method, Optimizer) else Optimizer.model_validate(method)


def _special(
    named: Iterable[tuple[str, nn.Parameter]],
    *,
    matrices: Collection[nn.Parameter] | None,
    method: Optimizer,
    options: RunOptions,
) -> "HostedOptimizer":
    """Return an optimizer that nothing of can leave the device, with AdamW for what a method for `matrices` leaves."""
    decays = _decays(named, options.weight_decay)
    constants: dict[str, Any] = {"betas": options.betas, "eps": options.eps}
    if matrices is None:
        return HostedOptimizer(None, None, LocalShards(decays, method, **constants) if decays else None)
    whole = {parameter: decays[parameter] for parameter in matrices if parameter in decays}
    rest = [(parameter, parameter) for parameter in decays if parameter not in whole]
    on_device = _optimizer(_groups(rest, decays), Optimizer(), options) if rest else None
    return HostedOptimizer(on_device, None, WholeMatrices(whole, method, **constants) if whole else None)


def _hosted(
    parts: Sequence[nn.Module], method: Optimizer, options: RunOptions, offload: OffloadEngine | None, *, scaled: bool
) -> "HostedOptimizer":
    if offload is None:
        trains = any(parameter.requires_grad for part in parts for parameter in part.parameters())
        return HostedOptimizer(build_optimizer(parts, method, options) if trains else None, None)
    decays, off_device = _decays(_named(parts), options.weight_decay), offload.device_parts
    waits = scaled or options.clip_norm is not None
    offload.attach(UpdateRule(method.name, betas=options.betas, eps=options.eps), decays, during_backward=not waits)
    staying = ((parameter, off_device.get(parameter, parameter)) for parameter in decays)
    on_device = [(parameter, part) for parameter, part in staying if part is not None]
    return HostedOptimizer(_optimizer(_groups(on_device, decays), method, options) if on_device else None, offload)


class HostedOptimizer:
    """The optimizer of what is on the device, None where nothing is, and of what the offload engine holds.

    `special`: of what on the device no optimizer of torch updates by itself.
    """

    def __init__(
        self,
        on_device: torch.optim.Optimizer | None,
        offload: OffloadEngine | None,
        special: LocalShards | WholeMatrices | LayerwiseUpdates | None = None,
    ) -> None:
        self.on_device, self.offload, self.special = on_device, offload, special
        self._learning_rate = 0.0

    def set_learning_rate(self, learning_rate: float) -> None:
        """Say the learning rate of a step, before its backward passes: updates may run beside them."""
        self._learning_rate = learning_rate
        if self.on_device is not None:
            set_learning_rate(self.on_device, learning_rate)
        if self.offload is not None:
            self.offload.set_learning_rate(learning_rate)
        if self.layerwise is not None:
            self.layerwise.set_learning_rate(learning_rate)

    @property
    def layerwise(self) -> LayerwiseUpdates | None:
        """What updates in the backward pass, if anything does; its gradients are gone after that, and only their norms are left."""
        return self.special if isinstance(self.special, LayerwiseUpdates) else None

    def step(self) -> None:
        """Update all parameters with the gradients of the step."""
        if self.offload is not None:
            self.offload.step()
        if self.on_device is not None:
            with on_local_tensors(self.on_device):
                self.on_device.step()
        if self.special is not None:
            with torch.no_grad():
                self.special.step(self._learning_rate)

    @property
    def device_state(self) -> Mapping[torch.Tensor, dict[str, Any]]:
        """The state of the parameters on the device, by parameter: of each that this rank keeps the state of."""
        found: dict[torch.Tensor, dict[str, Any]] = {} if self.on_device is None else dict(self.on_device.state)
        if self.special is not None:
            for parameter, state in self.special.state.items():
                found[parameter] = state
        return found

    def loaded(self) -> None:
        """Take over what was read into the tensors of the last `device_state`."""
        if self.special is not None:
            self.special.loaded()

    def create_state(self) -> None:
        """Make the optimizer of the device create its state, as it is before the first step. It does so in a step, which at rate zero changes
        no parameter, and is not counted."""
        if self.special is not None:
            with torch.no_grad():
                self.special.create_state()
        if self.on_device is None:
            return
        rates = [group["lr"] for group in self.on_device.param_groups]
        for group in self.on_device.param_groups:
            group["lr"] = 0.0
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        with on_local_tensors(self.on_device):
            self.on_device.step()
        self.on_device.zero_grad(set_to_none=True)
        for group, rate in zip(self.on_device.param_groups, rates, strict=True):
            group["lr"] = rate
        for state in self.on_device.state.values():
            if "step" in state:
                state["step"].zero_()


def _named(parts: Sequence[nn.Module]) -> Iterable[tuple[str, nn.Parameter]]:
    return (named for part in parts for named in part.named_parameters())


def _decays(named: Iterable[tuple[str, nn.Parameter]], weight_decay: float) -> dict[nn.Parameter, float]:
    """Return the weight decay of each parameter that is trained."""
    return {
        parameter: weight_decay if parameter.ndim > 1 and not name.endswith("bias") else 0.0
        for name, parameter in named
        if parameter.requires_grad
    }


def _optimizer(groups: list[dict[str, Any]], method: Optimizer, options: RunOptions) -> torch.optim.Optimizer:
    if method.name == "sgd":
        # the fused kernel of SGD does not accept DTensors
        return torch.optim.SGD(groups, lr=options.learning_rate, momentum=method["momentum"], foreach=True)
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=options.betas, eps=options.eps, fused=True)


def _groups(
    parameters: Iterable[tuple[nn.Parameter, nn.Parameter]], decays: Mapping[nn.Parameter, float]
) -> list[dict[str, Any]]:
    """Return one group for each decay and mesh, because a fused kernel takes tensors of one mesh only.

    `parameters`: each with the part of it that is updated on the device, mostly itself.
    """
    groups: dict[object, dict[str, Any]] = {}
    for parameter, part in parameters:
        mesh = part.device_mesh if isinstance(part, DTensor) else None
        decay = decays[parameter]
        groups.setdefault((decay, mesh), {"params": [], "weight_decay": decay})["params"].append(part)
    return list(groups.values())
