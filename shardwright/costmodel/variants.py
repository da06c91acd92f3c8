"""The step of one plan under many vectors of constants at once, which a fit evaluates."""

import numpy as np

from shardwright.base import Array
from shardwright.costmodel.op_times import OpTimes, overlap_saving_seconds
from shardwright.costmodel.pipeline import step_seconds
from shardwright.costmodel.tables import (
    RowCosts,
    build_tables,
    candidates_of,
    ends_of,
    layer_mixes,
    stage_causes,
    stage_seconds,
)
from shardwright.specs import Plan, TrainingSpec
from shardwright.specs.model import ModelSpec


def step_seconds_by_variant(
    model: ModelSpec, training: TrainingSpec, plan: Plan, times: OpTimes, variants: int
) -> Array:
    """Return the step seconds (variants,) of a plan whose layers share one ZeRO stage.

    `times.constants` holds arrays (variants,).
    """
    model, candidates = model.trained_as(training.trainable), candidates_of(plan)
    apart = plan.mtp_stage is not None
    every = candidates[np.zeros(variants, dtype=np.int64)]
    tables = build_tables(model, training, every, times, strategies=plan.strategies, mtp_apart=apart)
    mixes = layer_mixes(model, plan.stages, mtp_apart=apart)[0]
    ends = ends_of(len(plan.stages), spread=plan.vocabulary_parallel != "none")
    passes = [stage_causes(part, mixes[None], ends) for part in (tables.forward, tables.backward)]
    saving = overlap_saving_seconds(times.node.device, training, times.constants, *passes)
    seconds = stage_seconds(RowCosts.of(tables)[:, None], mixes, ends)
    costs = seconds.costs(plan.schedule, plan.mesh.pp, tables.send_seconds[:, None], saving)
    return step_seconds(plan.schedule, costs, plan.microbatches)
