"""The update where it needs matrices whole: ranks of tp and of the shards exchange pieces, and each updates its part of the matrices.

A matrix belongs to one of the S ranks that shard it, and of the t ranks of tp. First the pieces of its gradient meet over the shards, then
over tp; the update goes back the same way. Ranks of other replicas do the same. Matrices are dealt in rounds of S t. So a rank sends
and receives, in each of the exchanges over either axis, its own part of the layers' matrices.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from shardwright.base import Array
from shardwright.costmodel.op_times import OpTimes
from shardwright.costmodel.optimizers import EXCHANGES, Matrix, factor_seconds, imbalance, layer_matrices, work_of
from shardwright.specs import Candidates, RankGroup, TrainingSpec, shard_group, tp_group
from shardwright.specs.model import ModelSpec


@dataclass(frozen=True)
class WholeMatrices:
    """The share of R rows in such an update, for every candidate (N,).

    `parameters` (N, R): trained elements of a row on one rank of tp, before data parallelism shards them.
    """

    model: ModelSpec
    training: TrainingSpec
    times: OpTimes
    candidates: Candidates
    parameters: Array

    @cached_property
    def _rows(self) -> list[tuple[Matrix, ...]]:
        """The matrices of each row: of its layer, and for a method that takes every parameter those of embedding and head."""
        layers = [layer_matrices(block, self.model.hidden_size) for block in self.model.layer_classes]
        further = self.parameters.shape[1] - 2 - len(layers)  # layers of multi-token prediction are like the last one
        layers += layers[-1:] * further
        return [*layers, *self._ends]

    @property
    def _ends(self) -> list[tuple[Matrix, ...]]:
        if not self.training.method.takes_all:
            return [(), ()]
        table = Matrix(self.model.vocab_size, self.model.embedding_size or self.model.hidden_size)
        return [(table,), () if self.model.tied_embeddings else (table,)]

    @cached_property
    def _split(self) -> tuple[Array, Array]:
        """(N, 2) each: ranks of tp over which a matrix is split, and ranks that share its updates; for split ones and others."""
        tp = np.stack([self.candidates.tp, np.ones_like(self.candidates.tp)], axis=1)
        return tp, tp * self.candidates.shards[:, None]

    def _each(self, value: Callable[[Matrix], float], ranks: Array) -> Array:
        """(N, R): the sum over a row's matrices of `value` of each, over the `ranks` (N, 2) among which it is split."""
        found = np.zeros(self.parameters.shape)
        for row, matrices in enumerate(self._rows):
            for matrix in matrices:
                found[:, row] += value(matrix) / ranks[:, 0 if matrix.split else 1]
        return found

    @cached_property
    def elements(self) -> Array:
        """(N, R): elements of the matrices on one rank of tp; everything, where the method takes every parameter."""
        if self.training.method.takes_all:
            return self.parameters
        return self._each(lambda matrix: matrix.elements, self._split[0])

    @cached_property
    def _uneven(self) -> Array:
        """(N, 1): matrices of the rank that has most over the mean, on a stage with an equal part of the layers."""
        layers, chosen = self.model.layer_count, self.candidates
        found = np.ones((len(chosen), 1))
        stages, owners = chosen.pp, self._split[1][:, 0]
        for pp, ranks in {(int(a), int(b)) for a, b in zip(stages, owners, strict=True)}:
            held = self.model.class_of_layer[: -(-layers // pp)]
            sizes = [matrix.elements for index in held for matrix in self._rows[index]]
            sizes += [matrix.elements for matrix in self._rows[-2]]
            found[(stages == pp) & (owners == ranks)] = imbalance(tuple(sizes), ranks)
        return found

    @cached_property
    def state_bytes(self) -> Array:
        """(N, R): bytes of state on the rank that has most."""
        element = self._element
        return self._uneven * self._each(
            lambda matrix: work_of(self.training.method, matrix, element).state_bytes, self._split[1]
        )

    @cached_property
    def temporary_bytes(self) -> Array:
        """(N, R): bytes alive in the update of a row's largest matrix."""
        method, element = self.training.method, self._element
        most = [
            max((work_of(method, matrix, element).temporary_bytes for matrix in row), default=0.0) for row in self._rows
        ]
        return np.broadcast_to(np.array(most), self.parameters.shape)

    @property
    def seconds(self) -> Array:
        """(N, R): matmuls, factorizations and passes over memory of the rank that has most."""
        return self._uneven * self._each(self._matrix_seconds, self._split[1])

    def _matrix_seconds(self, matrix: Matrix) -> float:
        work, times = work_of(self.training.method, matrix, self._element), self.times
        matmuls = sum(count * float(times.matmul_seconds(*shape)) for count, shape in work.matmuls)
        moved = float(times.memory_bound_seconds(self._element * work.passes * matrix.elements))
        return matmuls + factor_seconds(work.factor_flops, times) + moved

    @property
    def shard_exchange_seconds(self) -> Array:
        """(N, R): exchanges over the shards."""
        return self._exchange_seconds(shard_group(self.candidates, self.times.node), self.elements)

    @property
    def tp_exchange_seconds(self) -> Array:
        """(N, R): exchanges over tp of what was put together over the shards."""
        cut = self._each(lambda matrix: matrix.elements if matrix.split else 0, self._split[0])
        return self._exchange_seconds(tp_group(self.candidates, self.times.node), cut)

    def _exchange_seconds(self, group: RankGroup, elements: Array) -> Array:
        """An all-to-all of each round: of what a rank holds of the matrices of a row, as often as their number is of the ranks."""
        exchanges = EXCHANGES.get(self.training.method.name, 2)
        calls = exchanges * self._each(lambda _: 1, self._split[1])
        size_bytes = exchanges * self._element * elements / self.candidates.shards[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            each = np.where(calls > 0, size_bytes / calls, 0.0)
        return calls * self.times.collective_seconds("all_to_all", each, group.column())

    @property
    def _element(self) -> float:
        return float(self.training.precision.parameter_bytes_per_element)
