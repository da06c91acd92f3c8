"""Updates in the backward pass: of each layer as soon as its gradients are there, which are then freed (LOMO, Lv et al. 2023, arXiv 2306.09782)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from shardwright.executor.model import StageModule


class Updates(Protocol):
    """What updates some parameters, as `HostedOptimizer` does."""

    def set_learning_rate(self, learning_rate: float) -> None: ...

    def step(self) -> None: ...

    @property
    def device_state(self) -> Mapping[Tensor, dict[str, Any]]: ...

    def create_state(self) -> None: ...

    def loaded(self) -> None: ...


class _Unit(NamedTuple):
    """Parameters that are updated together."""

    parameters: tuple[nn.Parameter, ...]
    updates: Updates


def units_of(parts: Sequence[nn.Module]) -> list[list[tuple[str, nn.Parameter]]]:
    """Return the named parameters that are updated together: those of each layer, and each of the others alone.

    A parameter that two modules share is listed once, with the first.
    """
    found: dict[str, list[tuple[str, nn.Parameter]]] = {}
    for number, part in enumerate(parts):
        layers = part.layer_paths if isinstance(part, StageModule) else ()
        for name, parameter in part.named_parameters():
            if parameter.requires_grad:
                layer = next((path for path in layers if name.startswith(f"{path}.")), name)
                found.setdefault(f"{number}.{layer}", []).append((name, parameter))
    return list(found.values())


class LayerwiseUpdates:
    """Waits for the gradients of each unit of parameters. `build` returns what updates the named parameters of one.

    FSDP2 calls a parameter's hooks when its gradient is reduced. Nothing scales gradients before the update, so nothing may clip them.
    """

    def __init__(
        self, parts: Sequence[nn.Module], build: Callable[[Sequence[tuple[str, nn.Parameter]]], Updates]
    ) -> None:
        self._units = [_Unit(tuple(one for _, one in named), build(named)) for named in units_of(parts)]
        self._missing = [set(unit.parameters) for unit in self._units]
        self._norms: dict[nn.Parameter, Tensor] = {}
        for number, unit in enumerate(self._units):
            for parameter in unit.parameters:
                parameter.register_post_accumulate_grad_hook(self._hook(number))  # type: ignore[no-untyped-call] # torch gives it no types

    def set_learning_rate(self, learning_rate: float) -> None:
        """Say the rate of a step, before its backward pass."""
        for unit in self._units:
            unit.updates.set_learning_rate(learning_rate)

    def step(self, learning_rate: float) -> None:
        """End a step: update the units of which a parameter got no gradient, such as experts without a token."""
        for number, (unit, missing) in enumerate(zip(self._units, self._missing, strict=True)):
            if missing and len(missing) < len(unit.parameters):
                self._update(number)
            missing.update(unit.parameters)

    def norm_of(self, parameter: nn.Parameter) -> Tensor | None:
        """Return the norm of this rank's part of the parameter's last gradient, as a tensor of one element, and forget it."""
        return self._norms.pop(parameter, None)

    @property
    def state(self) -> Mapping[Tensor, dict[str, Any]]:
        """The state of each parameter."""
        return {parameter: state for unit in self._units for parameter, state in unit.updates.device_state.items()}

    def create_state(self) -> None:
        """Make the state as it is before the first step."""
        for unit in self._units:
            unit.updates.create_state()

    def loaded(self) -> None:
        """Take over what was read into the tensors of `state`."""
        for unit in self._units:
            unit.updates.loaded()

    def _hook(self, number: int) -> Callable[[Tensor], None]:
        def after_gradient(parameter: Tensor) -> None:
            assert isinstance(parameter, nn.Parameter)
            self._missing[number].discard(parameter)
            if not self._missing[number]:
                self._update(number)

        return after_gradient

    @torch.no_grad()
    def _update(self, number: int) -> None:
        unit = self._units[number]
        for parameter in unit.parameters:
            gradient = parameter.grad
            if gradient is not None:
                own = gradient.to_local() if isinstance(gradient, DTensor) else gradient
                self._norms[parameter] = torch.linalg.vector_norm(own).reshape(1)
        unit.updates.step()
        for parameter in unit.parameters:
            parameter.grad = None
