"""The update of one whole matrix by its owner: optimizers of torch and of packages, and those that no well-kept package has.

A rule returns what is added to the matrix. It never sees the matrix itself, but for methods whose step is in proportion to it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from shardwright.specs import Optimizer

from .packages import adamw_8bit, in_fp32, soap, take_over

_MUON_RATE = "match_rms_adamw"
"""Muon's updates are as large as AdamW's, so that one learning rate serves both (Liu et al. 2025, arXiv 2502.16982, section 2.2)."""
_SMALLEST_NORM = 1e-30

Build = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


class Rule(ABC):
    """The state of one matrix and its update."""

    @abstractmethod
    def update(self, gradient: Tensor, learning_rate: float, parameter: Tensor | None) -> Tensor:
        """Return what is added to a matrix of the shape of `gradient`. `parameter`: the matrix, where `reads_parameter` says so."""

    @property
    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """The state by name, as a checkpoint has it."""

    def loaded(self, state: Mapping[str, Tensor]) -> None:
        """Take over what was read into the tensors of `state`. Most are those of the state itself."""
        return


class PackageRule(Rule):
    """An optimizer of a package on a parameter of its own, which is zero before each step, or a copy of the matrix."""

    def __init__(self, build: Build, *, copies: bool = False) -> None:
        self._own = nn.Parameter(torch.empty(0, 0))
        self._optimizer, self._copies = build([self._own]), copies

    def update(self, gradient: Tensor, learning_rate: float, parameter: Tensor | None) -> Tensor:
        group = self._optimizer.param_groups[0]
        if group.get("step") == 0:  # a state that only had a shape
            self._optimizer.state.clear()
        group["lr"] = learning_rate
        before = parameter if self._copies else None
        self._own.data = torch.zeros_like(gradient) if before is None else before.clone()
        self._own.grad = gradient
        self._optimizer.step()
        change = self._own.data if before is None else self._own.data - before
        self._own.grad, self._own.data = None, torch.empty(0, 0)
        return change

    @property
    def state(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, value in self._optimizer.state[self._own].items():
            if isinstance(value, list):  # a file takes contiguous tensors, and what is read goes into these
                value[:] = [each.contiguous() if isinstance(each, Tensor) else each for each in value]
                found |= {f"{name}.{place}": each for place, each in enumerate(value) if isinstance(each, Tensor)}
            elif isinstance(value, Tensor):
                found[name] = value
        group = self._optimizer.param_groups[0]
        return found | ({"step": torch.tensor(float(group["step"]))} if "step" in group else {})

    def loaded(self, state: Mapping[str, Tensor]) -> None:
        group = self._optimizer.param_groups[0]
        if "step" in group:
            group["step"] = int(state["step"])


class LowRankRule(Rule):
    """GaLore: Adam on the gradient projected along its shorter side (Zhao et al. 2024, arXiv 2403.03507, algorithm 2).

    The projection is of the `rank` first singular vectors of a gradient, made anew every `period` steps; the moments stay. `signs`: what
    the projection leaves out moves by its sign, and the moments begin anew with it (FRUGAL: Zmushko et al. 2024, arXiv 2411.07837,
    algorithm 1, with a projection by singular vectors).
    """

    def __init__(self, optimizer: Optimizer, build: Build, *, signs: bool) -> None:
        self._rank, self._period, self._scale = optimizer.count("rank"), optimizer.count("period"), optimizer["scale"]
        self._build, self._signs = build, signs
        self._moments = PackageRule(build)
        self._projection = torch.empty(0, 0)
        self._steps = 0

    def update(self, gradient: Tensor, learning_rate: float, parameter: Tensor | None) -> Tensor:
        wide = gradient.shape[0] < gradient.shape[1]
        tall = gradient.T if wide else gradient  # (l, s), l >= s
        if self._steps % self._period == 0:
            self._projection = torch.linalg.svd(tall, full_matrices=False)[2][: self._rank].T.contiguous()  # (s, r)
            if self._signs:
                self._moments = PackageRule(self._build)
        self._steps += 1
        low = tall @ self._projection  # (l, r)
        change = self._scale * self._moments.update(low, learning_rate, None) @ self._projection.T
        if self._signs:
            change -= learning_rate * torch.sign(tall - low @ self._projection.T)
        return change.T if wide else change

    @property
    def state(self) -> dict[str, Tensor]:
        moments = {name: tensor for name, tensor in self._moments.state.items() if name != "step"}
        steps = {"step": torch.tensor(float(self._steps)), "moment_step": self._moments.state["step"]}
        return {"projection": self._projection, **steps, **{name: in_fp32(tensor) for name, tensor in moments.items()}}

    def loaded(self, state: Mapping[str, Tensor]) -> None:
        self._steps = int(state["step"])
        for name, tensor in self._moments.state.items():
            if name != "step":
                take_over(tensor, state[name])


class CosmosRule(Rule):
    """COSMOS (Liu et al. 2025, arXiv 2502.17410, algorithm 1): SOAP in the leading directions of the gradient's columns, and Muon's
    Newton-Schulz on the rest of the momentum.

    The basis begins with the leading right singular vectors of the first gradient, and its statistic with theirs.
    """

    def __init__(self, optimizer: Optimizer, eps: float) -> None:
        self._optimizer, self._eps = optimizer, eps
        self._betas = optimizer["beta1"], optimizer["beta2"]
        self._held: dict[str, Tensor] = {}

    def update(self, gradient: Tensor, learning_rate: float, parameter: Tensor | None) -> Tensor:
        (beta1, beta2), held = self._betas, self._held
        if not held or held["step"] == 0:
            held |= self._first(gradient)
        held["step"] += 1
        step = int(held["step"])
        momentum, basis = held["momentum"], held["basis"]
        momentum.lerp_(gradient, 1 - beta1)
        seen = gradient @ basis
        mixed = (
            beta2 * basis @ held["statistic"] + (1 - beta2) * gradient.T @ seen
        )  # (n, r): the statistic of all columns by the old basis
        new = torch.linalg.qr(mixed)[0]
        overlap, seen = new.T @ basis, gradient @ new
        held["statistic"].copy_(beta2 * overlap @ held["statistic"] @ overlap.T + (1 - beta2) * seen.T @ seen)
        basis.copy_(new)
        held["second"].lerp_(seen.square(), 1 - beta2)
        low = momentum @ basis
        adam = (low / (1 - beta1**step)) / ((held["second"] + self._eps) / (1 - beta2**step)).sqrt()
        rest = self._orthogonal(momentum - low @ basis.T)
        change = adam @ basis.T + self._optimizer["scale"] * gradient.shape[0] ** 0.5 * _unit(rest)
        return -learning_rate * _unit(change)

    def _first(self, gradient: Tensor) -> dict[str, Tensor]:
        rank = self._optimizer.count("rank")
        _, values, vectors = torch.linalg.svd(gradient, full_matrices=False)
        basis = vectors[:rank].T.contiguous()
        return {
            "step": torch.zeros(()),
            "momentum": torch.zeros_like(gradient),
            "basis": basis,
            "statistic": torch.diag(values[:rank].square()),
            "second": torch.zeros(gradient.shape[0], basis.shape[1], device=gradient.device),
        }

    def _orthogonal(self, rest: Tensor) -> Tensor:
        """Return Newton-Schulz iterations of the rest, those of torch's Muon without momentum; `_unit` takes out its scale."""
        rule = PackageRule(
            lambda own: torch.optim.Muon(
                own,
                weight_decay=0.0,
                momentum=0.0,
                nesterov=False,
                ns_steps=self._optimizer.count("steps"),
                adjust_lr_fn=None,
            )
        )
        return -rule.update(rest, 1.0, None)

    @property
    def state(self) -> dict[str, Tensor]:
        return dict(self._held)


def _unit(matrix: Tensor) -> Tensor:
    """Return the matrix with a Frobenius norm of the root of its columns: NORM of the paper."""
    norm: Tensor = matrix.norm()
    return matrix * (float(matrix.shape[1] ** 0.5) / norm.clamp(min=_SMALLEST_NORM))


class SinkhornRule(Rule):
    """SinkGD: rows and columns normalised in turn (Scetbon et al. 2025, arXiv 2502.06742, SR-Sinkhorn); no state."""

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def update(self, gradient: Tensor, learning_rate: float, parameter: Tensor | None) -> Tensor:
        rows, columns = gradient.shape
        found = gradient.clone()
        for _ in range(self._steps):
            found *= columns**0.5 / found.norm(dim=1, keepdim=True).clamp_(min=_SMALLEST_NORM)
            found *= rows**0.5 / found.norm(dim=0, keepdim=True).clamp_(min=_SMALLEST_NORM)
        return found.mul_(-learning_rate)

    @property
    def state(self) -> dict[str, Tensor]:
        return {}


def rule_of(optimizer: Optimizer, betas: tuple[float, float], eps: float) -> Rule:
    """Return the rule for one matrix. `betas`, `eps`: of Adam, where the method runs it on something smaller."""
    name = optimizer.name
    if name == "sinkgd":
        return SinkhornRule(optimizer.count("steps"))
    if name in ("galore", "frugal"):
        return LowRankRule(optimizer, _adam(optimizer, betas, eps), signs=name == "frugal")
    if name == "cosmos":
        return CosmosRule(optimizer, eps)
    if name == "adafactor":
        return PackageRule(lambda own: torch.optim.Adafactor(own, weight_decay=0.0), copies=True)
    if name == "soap":
        return PackageRule(_soap(optimizer, eps))
    assert name == "muon"
    momentum, steps = optimizer["momentum"], optimizer.count("steps")
    return PackageRule(
        lambda own: torch.optim.Muon(own, weight_decay=0.0, momentum=momentum, ns_steps=steps, adjust_lr_fn=_MUON_RATE)
    )


def _adam(optimizer: Optimizer, betas: tuple[float, float], eps: float) -> Build:
    if optimizer["bits"] == 8:
        return lambda own: adamw_8bit(own, betas=betas, eps=eps)
    return lambda own: torch.optim.AdamW(own, betas=betas, eps=eps, weight_decay=0.0)


def _soap(optimizer: Optimizer, eps: float) -> Build:
    settings: dict[str, Any] = {
        "betas": (optimizer["beta1"], optimizer["beta2"]),
        "precondition_frequency": optimizer.count("period"),
        "max_precondition_dim": optimizer.count("max_size"),
    }
    return lambda own: soap(own, weight_decay=0.0, eps=eps, **settings)
