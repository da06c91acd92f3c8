"""The work of many candidates, computed once for each distinct combination of the choices that it depends on."""

from dataclasses import replace

import numpy as np

from shardwright.base import distinct
from shardwright.costmodel.layers import RowWork, WorkModel
from shardwright.costmodel.op_times import OpTimes
from shardwright.specs import Candidates, TrainingSpec
from shardwright.specs.model import ModelSpec


def distinct_rows(
    model: ModelSpec, training: TrainingSpec, candidates: Candidates, times: OpTimes, *, mtp_apart: bool = False
) -> list[RowWork]:
    """Return the work of every row for every candidate, computed once for
    candidates that differ only in later choices."""
    if any(np.ndim(value) for value in vars(times.constants).values()):  # each candidate has its own constants
        return WorkModel(model, training, times, candidates).rows(mtp_apart=mtp_apart)
    one = np.ones_like(candidates.tp)
    # a microbatch's exchange hides behind another one, if the pipeline has it
    paired = (candidates.ep > 1) & training.overlaps_dispatch
    # beside frozen weights the head asks whether its microbatch is the only one
    fewest = one if training.trainable.trains_all else np.minimum(candidates.microbatches, 2)
    alike = replace(
        candidates,
        pp=np.where(paired, candidates.pp, np.minimum(candidates.pp, 2)),
        # experts also spread over data-parallel ranks
        dp_replicate=np.where(candidates.ep > 1, candidates.dp_replicate, 1),
        dp_shard=np.where(candidates.ep > 1, candidates.dp_shard, 1),
        microbatches=np.where(paired, candidates.microbatches, fewest),
        stages_per_rank=np.where(paired, candidates.stages_per_rank, one),
        zero_stage=0 * one,
        offload_optimizer=0 * one,
        offload_gradients=0 * one,
        offload_parameters=0 * one,
        offload_nvme=0 * one,
    )
    kinds = distinct(list(vars(alike).values()))
    rows = WorkModel(model, training, times, alike[kinds.first]).rows(mtp_apart=mtp_apart)
    return [RowWork(**{name: values[kinds.of_row] for name, values in vars(row).items()}) for row in rows]
