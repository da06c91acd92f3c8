"""The linears of a layer that compute in 8 bits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from shardwright.executor.model import MeshRanks, StackedQueryKeyValue

from .scaled import scaled_linear

_ROUTES = frozenset(("router", "gate", "shared_expert_gate"))
"""Names of transformers' modules that choose experts, and weigh those that all tokens share."""


def scales_layer(index: int, layers: int, high_precision: int) -> bool:
    """Whether layer `index` of `layers` computes in 8 bits where `high_precision` stay in the compute format.

    Half of these are the first layers and half the last, with one more at the start (Megatron-Core, transformer_config.py,
    first_last_layers_bf16: a number of layers at the start and at the end).
    """
    first = -(-high_precision // 2)
    return first <= index < layers - (high_precision - first)


@dataclass(frozen=True)
class Scaling:
    """Puts linears into 8 bits. `ranks`: the groups of tp and cp that hold parts of their operands."""

    ranks: Sequence[MeshRanks]

    def over(self, layer: nn.Module) -> None:
        """Let every linear of a layer compute in 8 bits, but those that choose and weigh experts. Experts themselves, which are no linears,
        keep the compute format. Biases are added in it."""
        for path, module in layer.named_modules():
            if isinstance(module, (nn.Linear, Conv1D, StackedQueryKeyValue)) and _ROUTES.isdisjoint(path.split(".")):
                self._replace(module)

    def _replace(self, module: nn.Module) -> None:
        def forward(hidden: Tensor) -> Tensor:
            own: Any = module
            weight: Tensor = own.weight  # this rank's part
            if isinstance(module, StackedQueryKeyValue):
                weight = weight.flatten(1)
            if not isinstance(module, nn.Linear):  # transformers' own holds (inputs, outputs)
                weight = weight.t()
            product = scaled_linear(hidden, weight, self.ranks)
            return product if own.bias is None else product + own.bias.flatten()

        module.forward = forward
