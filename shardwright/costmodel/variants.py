"""One plan's step under many vectors of constants at once: what a fit evaluates."""

import numpy as np

from shardwright.base import Array
from shardwright.costmodel.op_times import OpTimes, overlap_saving_seconds
from shardwright.costmodel.pipeline import StageCosts, step_seconds
from shardwright.costmodel.tables import build_tables, candidates_of, row_counts
from shardwright.specs import ClusterSpec, Plan, TrainingSpec, by_rank
from shardwright.specs.model import ModelSpec


def step_seconds_by_variant(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, plan: Plan, times: OpTimes, variants: int
) -> Array:
    """Step seconds (variants,) of a plan whose layers share one ZeRO stage; `times.constants` holds arrays (variants,)."""
    candidates = candidates_of(plan)
    tables = build_tables(model, cluster, training, candidates[np.zeros(variants, dtype=np.int64)], times)
    counts = row_counts(model, plan)[0]

    def per_stage(values: Array) -> Array:
        wide = values[..., None] if values.ndim == 2 else values
        wide = np.broadcast_to(wide, (variants, *counts.shape[1:]))
        return np.asarray(np.einsum("nrp,srp->ns", wide, counts, optimize=True))

    passes = [
        {cause: per_stage(each) for cause, each in vars(parts).items()} for parts in (tables.forward, tables.backward)
    ]
    costs = StageCosts(
        pp=plan.mesh.pp,
        forward=per_stage(tables.forward.total),
        backward=per_stage(tables.backward.total),
        weight_gradient=per_stage(tables.weight_gradient_seconds),
        overlap_saving=overlap_saving_seconds(cluster, training, times.constants, *passes),
        first_forward_extra=per_stage(tables.first_forward.total),
        send=np.where(np.diff(plan.stage_ranks) == 0, 0.0, tables.send_seconds[:, None]),
        reduce_tail=per_stage(tables.last_backward.total),
        optimizer=by_rank(plan.schedule, plan.mesh.pp, per_stage(tables.optimizer_seconds)).sum(axis=-2),
    )
    return step_seconds(plan.schedule, costs, plan.microbatches)
