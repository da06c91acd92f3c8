"""Seconds of weight matmuls, forward and backward, in the compute format or a lower one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from shardwright.base import Array, Number
from shardwright.costmodel.op_times import OPERANDS, MatmulPart, OpTimes
from shardwright.specs import LinearFormat, TrainingSpec

from .operators import Matmul
from .precision import operand_bytes

_SHAPES: Mapping[MatmulPart, Callable[[Matmul], tuple[Number, Number, Number]]] = {
    "forward": lambda w: (w.m, w.k, w.n),
    "input_gradient": lambda w: (w.m, w.n, w.k),
    "weight_gradient": lambda w: (w.k, w.m, w.n),
}


def stays(matmul: Matmul, training: TrainingSpec) -> bool:
    """Whether a matmul keeps the compute format where others use a lower one: a sensitive one, or that of experts with software that lowers
    linears alone."""
    return matmul.sensitive or (matmul.experts and not training.software.runs.lowers_experts)


class MatmulSeconds(NamedTuple):
    """Seconds of weight matmuls in the two passes, (N,) each. `weight_gradient` is part of `backward`."""

    forward: Array
    backward: Array
    weight_gradient: Array


@dataclass(frozen=True)
class WeightMatmuls:
    """Weight matmuls of every candidate, shapes (N,).

    `low`: the format of all matmuls but those that keep the compute format (`stays`); None for that of all. `sequence_split` (N,): ranks
    over which the tokens are split before the input of a matmul is gathered. `trained`: the weights have gradients.
    """

    times: OpTimes
    training: TrainingSpec
    sequence_split: Array
    low: LinearFormat | None = None
    trained: bool = True

    def seconds(self, matmuls: list[Matmul]) -> MatmulSeconds:
        """Seconds of both passes at once, for those that need several of them."""
        operands = self._operand_seconds(matmuls)
        weights = self.weight_gradient_seconds(matmuls)
        return MatmulSeconds(
            self._sum(matmuls, "forward") + operands[0],
            self._sum(matmuls, "input_gradient") + weights + operands[1],
            weights,
        )

    def forward_seconds(self, matmuls: list[Matmul]) -> Array:
        """Seconds of (m, k) (k, n), and of making the operands where no other kernel does that."""
        return self._sum(matmuls, "forward") + self._operand_seconds(matmuls)[0]

    def backward_seconds(self, matmuls: list[Matmul]) -> Array:
        """Seconds of the gradient of the input, (m, n) (n, k), and of the weight, and of making their operands."""
        inputs = self._sum(matmuls, "input_gradient")
        return inputs + self.weight_gradient_seconds(matmuls) + self._operand_seconds(matmuls)[1]

    def weight_gradient_seconds(self, matmuls: list[Matmul]) -> Array:
        """Seconds of (k, m) (m, n) of each matmul; none of frozen weights. Where it adds its result to the sum of the microbatches'
        gradients, no less than it takes to read both operands and the sum and to write that."""
        return self._sum(matmuls if self.trained else [], "weight_gradient")

    def _sum(self, matmuls: list[Matmul], part: MatmulPart) -> Array:
        return sum((self._seconds(w, part) for w in matmuls), np.zeros(len(self.sequence_split)))

    def _seconds(self, matmul: Matmul, part: MatmulPart) -> Array:
        software, low = self.training.software, self._format(matmul, part)
        m, k, n = _SHAPES[part](matmul)
        looped = matmul.experts and software.loops_over_experts
        seconds = self.times.matmul_seconds(m, k, n, groups=matmul.groups, low=low, part=part, looped=looped)
        if part != "weight_gradient" or not software.sums_gradients_in_matmuls:
            return seconds
        precision = self.training.precision
        read = (OPERANDS[low].bytes if low else precision.activation_bytes_per_element) * (m * k + k * n)
        moved = matmul.groups * (read + 2 * precision.gradient_bytes_per_element * m * n)
        return np.maximum(seconds, self.times.memory_bound_seconds(moved))

    def _format(self, matmul: Matmul, part: MatmulPart) -> LinearFormat | None:
        if self.low is None or stays(matmul, self.training):
            return None
        plain = part == "weight_gradient" and OPERANDS[self.low].plain_weight_gradient
        return None if plain else self.low

    def _operand_seconds(self, matmuls: list[Matmul]) -> tuple[Array, Array]:
        """Seconds of making the operands, (forward, backward)."""
        nothing = np.zeros(len(self.sequence_split))
        if self.low is None:
            return nothing, nothing
        moved = [
            operand_bytes(w, self.training, self.sequence_split, trained=self.trained)
            for w in matmuls
            if not stays(w, self.training)
        ]
        forward, backward = (sum((each[side] for each in moved), nothing) for side in (0, 1))
        return self.times.cast_seconds(forward, self.low), self.times.cast_seconds(backward, self.low)
