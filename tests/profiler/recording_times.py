"""An OpTimes that notes what it is asked."""

from dataclasses import dataclass, field

import numpy as np

from shardwright.base.arrays import Array, Number
from shardwright.costmodel.op_times.protocol import MatmulPart, Operator
from shardwright.specs.training import LinearFormat
from tests.costmodel.fakes import RoundTimes


@dataclass(frozen=True)
class RecordingTimes(RoundTimes):
    """`matmuls`: (part, m, k, n, groups); `operators`: (operator, backward, elements)."""

    matmuls: set[tuple[MatmulPart, float, float, float, float]] = field(default_factory=set)
    operators: set[tuple[Operator, bool, float]] = field(default_factory=set)

    def matmul_seconds(
        self,
        m: Number,
        k: Number,
        n: Number,
        *,
        groups: Number = 1,
        low: LinearFormat | None = None,
        part: MatmulPart = "forward",
        looped: bool = False,
    ) -> Array:
        rows, inner, columns, count = (float(np.asarray(size).reshape(-1)[0]) for size in (m, k, n, groups))
        self.matmuls.add((part, rows, inner, columns, count))
        return super().matmul_seconds(m, k, n, groups=groups, low=low, part=part, looped=looped)

    def operator_seconds(
        self, operator: Operator, elements: Number, moved_bytes: Number, *, backward: bool = False
    ) -> Array:
        if count := float(np.asarray(elements).reshape(-1)[0]):
            self.operators.add((operator, backward, count))
        return super().operator_seconds(operator, elements, moved_bytes, backward=backward)
