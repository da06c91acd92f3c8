"""From cost tables to the stages of one plan: sums over the rows that each stage holds."""

from dataclasses import dataclass

import numpy as np

from shardwright.base import Array
from shardwright.specs import POLICIES, Candidates, Plan
from shardwright.specs.model import ModelSpec

from .cost_tables import CostTables, Seconds


def zero_stages(plan: Plan) -> list[int]:
    """The distinct ZeRO stages of a plan's layers, highest first; the highest also holds for embedding and head."""
    return sorted({run.zero_stage for stage in plan.stages for run in stage.layers}, reverse=True)


def candidates_of(plan: Plan) -> Candidates:
    """One candidate for each ZeRO stage that the plan's layers use, in the order of `zero_stages`."""
    stages = zero_stages(plan)
    one = Candidates.of(plan)
    repeated = one[np.zeros(len(stages), dtype=np.int64)]
    return Candidates(**{**vars(repeated), "zero_stage": np.array(stages)})


def row_counts(model: ModelSpec, plan: Plan) -> Array:
    """How many of each row every stage holds: shape (Z, S, R, P) over ZeRO stages, stages, rows and recompute policies."""
    stages = zero_stages(plan)
    rows = len(model.layer_classes) + 2
    counts = np.zeros((len(stages), len(plan.stages), rows, len(POLICIES)))
    classes = iter(model.class_of_layer)
    for index, stage in enumerate(plan.stages):
        for layer in stage.each_layer():
            counts[stages.index(layer.zero_stage), index, next(classes), POLICIES.index(layer.recompute)] += 1
    counts[0, 0, rows - 2, 0] = 1
    counts[0, -1, rows - 1, 0] = 1
    return counts


@dataclass(frozen=True)
class StageSums:
    """Sums over the rows of each stage; `counts` as in `row_counts`, for the candidates that `tables` were built for."""

    tables: CostTables
    counts: Array

    def total(self, values: Array) -> Array:
        """Shape (S,): `values` of shape (Z, R) or (Z, R, P), summed over the rows that each stage holds."""
        if values.ndim == 2:
            values = values[..., None]
        return np.asarray(
            np.einsum("zrp,zsrp->s", np.broadcast_to(values, (*values.shape[:2], len(POLICIES))), self.counts)
        )

    def largest(self, values: Array) -> Array:
        """Shape (S,): the largest of `values`, (Z, R) or (Z, R, P), among the rows that each stage holds."""
        if values.ndim == 2:
            values = values[..., None]
        held = np.where(self.counts > 0, values[:, None], 0.0)
        return np.asarray(held.max(axis=(0, 2, 3)))

    def seconds(self, parts: Seconds) -> dict[str, Array]:
        """Each cause of `parts` by name, shape (S,)."""
        return {name: self.total(value) for name, value in vars(parts).items()}
