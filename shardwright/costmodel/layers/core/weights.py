"""The weights of a layer that a rank holds: what it trains, and what is frozen."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from shardwright.base import Array
from shardwright.costmodel.layers.exchanges import spread_parameters
from shardwright.costmodel.layers.frame import WorkFrame
from shardwright.costmodel.layers.frozen import Adapters, BaseWeights, stored_bytes
from shardwright.costmodel.layers.operators import Matmul
from shardwright.specs.model import Block, Parameter


class WeightWork(NamedTuple):
    """(N,) each: the fields of `RowWork` about weights."""

    parameters: Array
    whole_parameters: Array
    expert_parameters: Array
    frozen_bytes: Array
    expert_frozen_bytes: Array


@dataclass(frozen=True)
class HeldWeights:
    """Those of `block`, whose matmuls are `dense` and, of routed experts, `experts`."""

    frame: WorkFrame
    block: Block
    dense: Sequence[Matmul]
    experts: Sequence[Matmul]

    @cached_property
    def all(self) -> list[Parameter]:
        """The weights of the layer. Only transformers' code allocates those that nothing reads."""
        weights = self.block.parameters(self.frame.model.hidden_size)
        return [weight for weight in weights if self.frame.stack.transformers_layers or not weight.idle]

    def work(self) -> WeightWork:
        """The trained elements and the frozen bytes of a rank. Experts that ep spreads are apart; other ranks hold theirs."""
        frame, training, weights = self.frame, self.frame.training, self.all
        spread = spread_parameters(weights, frame.candidates)
        dense = frame.local_parameters([p for p in weights if not p.expert])
        whole_experts = np.where(spread > 0, 0.0, frame.local_parameters([p for p in weights if p.expert]))
        nothing = np.zeros_like(dense)
        if training.trainable.trains_layer_weights and not self.block.frozen:
            whole = nothing + frame.whole_parameters([p for p in weights if not p.expert])
            return WeightWork(dense + whole_experts, whole, spread, nothing, nothing)
        stored = stored_bytes(training)
        frozen = BaseWeights(training, self.dense).frozen_bytes(dense)
        adapters, of_experts = (nothing + Adapters(training, part).parameters for part in (self.dense, self.experts))
        return WeightWork(
            parameters=adapters + np.where(spread > 0, 0.0, of_experts),
            whole_parameters=nothing,
            expert_parameters=np.where(spread > 0, of_experts, 0.0),
            frozen_bytes=frozen + stored * whole_experts,
            expert_frozen_bytes=stored * spread,
        )
