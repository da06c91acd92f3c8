"""Seconds of weight matmuls, forward and backward, in the compute format or a lower one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from shardwright.base import Array, Number
from shardwright.costmodel.op_times import MatmulPart, OpTimes
from shardwright.specs import LinearFormat, TrainingSpec

from .operators import Matmul
from .precision import operand_bytes

_SHAPES: Mapping[MatmulPart, Callable[[Matmul], tuple[Number, Number, Number]]] = {
    "forward": lambda w: (w.m, w.k, w.n),
    "input_gradient": lambda w: (w.m, w.n, w.k),
    "weight_gradient": lambda w: (w.k, w.m, w.n),
}


@dataclass(frozen=True)
class WeightMatmuls:
    """Of every candidate, shapes (N,). `low`: the format that all but the sensitive ones run in; None: the compute format.

    `sequence_split` (N,): ranks that the tokens are split over before what a matmul reads is gathered.
    """

    times: OpTimes
    training: TrainingSpec
    sequence_split: Array
    low: LinearFormat | None = None

    def forward_seconds(self, matmuls: list[Matmul]) -> Array:
        """(m, k) (k, n), and making the operands where that is work of its own."""
        return self._sum(matmuls, "forward") + self._operand_seconds(matmuls)[0]

    def backward_seconds(self, matmuls: list[Matmul]) -> Array:
        """The gradient of the input, (m, n) (n, k), and of the weight, and making their operands."""
        inputs = self._sum(matmuls, "input_gradient")
        return inputs + self.weight_gradient_seconds(matmuls) + self._operand_seconds(matmuls)[1]

    def weight_gradient_seconds(self, matmuls: list[Matmul]) -> Array:
        """(k, m) (m, n) of each."""
        return self._sum(matmuls, "weight_gradient")

    def _sum(self, matmuls: list[Matmul], part: MatmulPart) -> Array:
        return sum(
            (
                self.times.matmul_seconds(
                    *_SHAPES[part](w), groups=w.groups, low=None if w.sensitive else self.low, part=part
                )
                for w in matmuls
            ),
            np.zeros(len(self.sequence_split)),
        )

    def _operand_seconds(self, matmuls: list[Matmul]) -> tuple[Array, Array]:
        """(forward, backward)."""
        nothing = np.zeros(len(self.sequence_split))
        if self.low is None:
            return nothing, nothing
        moved = [operand_bytes(w, self.training, self.sequence_split) for w in matmuls if not w.sensitive]
        forward, backward = (sum((each[side] for each in moved), nothing) for side in (0, 1))
        return self.times.memory_bound_seconds(forward), self.times.memory_bound_seconds(backward)
