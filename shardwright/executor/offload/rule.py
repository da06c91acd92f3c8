"""The update of parts of parameters, by the functions behind torch's optimizers."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from shardwright.specs import OptimizerName


class Part(NamedTuple):
    """Elements of one parameter: their values, gradient and states, (n,) each, and the number of this update, from 1."""

    values: Tensor
    gradient: Tensor
    states: Sequence[Tensor]
    step: int
    weight_decay: float


@dataclass(frozen=True)
class UpdateRule:
    """AdamW by torch's fused kernel, or SGD. `state_names`: what it keeps for each element, as torch names it."""

    name: OptimizerName
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8

    @property
    def state_names(self) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq") if self.name == "adamw" else ()

    def apply(self, parts: Sequence[Part], learning_rate: float) -> None:
        """Update the parts in place. An element gets what torch's optimizer would give it in its whole parameter."""
        for weight_decay, alike in groupby(
            sorted(parts, key=lambda part: part.weight_decay), lambda part: part.weight_decay
        ):
            self._apply(list(alike), learning_rate, weight_decay)

    def _apply(self, parts: list[Part], learning_rate: float, weight_decay: float) -> None:
        values, gradients = [part.values for part in parts], [part.gradient for part in parts]
        if self.name == "sgd":
            sgd(
                values,
                gradients,
                [None] * len(parts),
                weight_decay=weight_decay,
                momentum=0.0,
                lr=learning_rate,
                dampening=0.0,
                nesterov=False,
                maximize=False,
                foreach=True,
            )
            return
        first, second = ([part.states[index] for part in parts] for index in range(2))
        adamw(
            values,
            gradients,
            first,
            second,
            [],
            [torch.tensor(float(part.step - 1)) for part in parts],
            fused=True,
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=learning_rate,
            weight_decay=weight_decay,
            eps=self.eps,
            maximize=False,
        )
