"""The stages of one plan: how many of each row they hold, and sums over these rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.specs import (
    POLICIES,
    Candidates,
    Plan,
    ScheduleName,
    Stage,
    Strategy,
    VocabularyParallel,
    by_rank,
    strategies_of,
)
from shardwright.specs.model import ModelSpec

from .cost_tables import CostTables, Seconds
from .rows import RowCosts, Rows, StageSeconds, ends_of, host_activation_bytes, stage_causes, stage_seconds


def zero_stages(stages: Sequence[Stage]) -> list[int]:
    """Return the distinct ZeRO stages of the layers, highest first; the highest also holds for embedding and head."""
    return sorted({run.zero_stage for stage in stages for run in stage.layers}, reverse=True)


def candidates_of(plan: Plan) -> Candidates:
    """Return one candidate for each ZeRO stage of the plan's layers, in the order of `zero_stages`."""
    stages = zero_stages(plan.stages)
    one = Candidates.of(plan)
    repeated = one[np.zeros(len(stages), dtype=np.int64)]
    return Candidates(**{**vars(repeated), "zero_stage": np.array(stages)})


def layer_mixes(
    model: ModelSpec, stages: Sequence[Stage], *, mtp_apart: bool = False, strategies: Sequence[Strategy] | None = None
) -> IntArray:
    """(Z, S, K, P): layers of each class that every stage holds under each of `strategies`, by ZeRO stage; by default those of
    `strategies_of`. `mtp_apart`: as in `build_tables`; these count for the highest ZeRO stage."""
    zeros, chosen = zero_stages(stages), strategies or strategies_of(stages)
    mixes = np.zeros((len(zeros), len(stages), len(model.layer_classes) + mtp_apart, len(chosen)), dtype=np.int64)
    classes = iter(model.class_of_layer)
    for index, stage in enumerate(stages):
        if mtp_apart:
            mixes[0, index, -1, POLICIES.index("none")] = stage.mtp_layers
        for layer in stage.each_layer():
            mixes[zeros.index(layer.zero_stage), index, next(classes), chosen.index(layer.strategy)] += 1
    return mixes


@dataclass(frozen=True)
class StageSums:
    """Sums over the rows of each stage of a plan.

    `tables` were built for the candidates (Z) of `candidates_of`. `mixes` are as in `layer_mixes`. `ends` (Z, S, 2) count for
    the first candidate, whose ZeRO stage is the highest. On a mixed cluster the candidates of every group follow each other, and
    each has the layers and ends of the stages in its group alone.
    """

    tables: CostTables
    mixes: Array
    ends: Array

    @classmethod
    def of(cls, tables: CostTables, mixes: Array, *, spread: bool = False) -> Self:
        """From mixes (Z, S, K, P). `spread`: the plan's vocabulary parallelism."""
        zeros, stages = mixes.shape[:2]
        nothing = np.zeros((zeros - 1, stages, 2))
        return cls(tables, mixes, np.concatenate([ends_of(stages, spread=spread)[None], nothing]))

    @classmethod
    def of_groups(cls, each: Mapping[int, CostTables], mixes: Array, group_of_stage: Sequence[int]) -> Self:
        """From the tables of each group, and the group of each stage (S,)."""
        whole, place = cls.of(next(iter(each.values())), mixes), np.array(group_of_stage)
        masks = [place == group for group in each]
        return cls(
            CostTables.joined(list(each.values())),
            np.concatenate([mixes * mask[:, None, None] for mask in masks]),
            np.concatenate([whole.ends * mask[:, None] for mask in masks]),
        )

    @property
    def rows(self) -> RowCosts:
        """Row costs with axes (Z, 1), to broadcast over stages."""
        return RowCosts.of(self.tables)[:, None]

    def stage_seconds(self) -> StageSeconds:
        """(S,) each."""
        return stage_seconds(self.rows, self.mixes, self.ends).summed()

    def causes(self, seconds: Seconds) -> dict[str, Array]:
        """Each cause of `seconds` by name, (S,)."""
        return {name: value.sum(axis=0) for name, value in stage_causes(seconds, self.mixes, self.ends).items()}

    def total(self, values: Rows) -> Array:
        """(S,): `values` with axes (Z, 1), summed over the rows that each stage holds."""
        return np.asarray(values.total(self._held(values), self.ends).sum(axis=0))

    def largest(self, values: Rows, schedule: ScheduleName, pp: int) -> Array:
        """(pp,): the largest of `values` among the rows that each rank holds, its share of the vocabulary in one piece."""

        def of_rank(per_stage: Array) -> Array:
            summed = by_rank(schedule, pp, np.moveaxis(per_stage, 1, -1)).sum(axis=-2)
            return np.moveaxis(summed, -1, 1)

        return np.asarray(values.largest(of_rank(self._held(values)), of_rank(self.ends)).max(axis=0))

    def host_activations(
        self, schedule: ScheduleName, pp: int, microbatches: int, vocabulary: VocabularyParallel
    ) -> Array:
        """(pp,): the most bytes of activations that each rank holds on its host."""
        rows = RowCosts.of(self.tables)
        found = [
            host_activation_bytes(rows[zero], schedule, pp, microbatches, mixes, vocabulary)
            for zero, mixes in enumerate(self.mixes)
        ]
        return np.asarray(np.zeros(pp) + sum(found))

    def _held(self, values: Rows) -> Array:
        return self.mixes if values.depends_on_policy else self.mixes.sum(axis=-1)
