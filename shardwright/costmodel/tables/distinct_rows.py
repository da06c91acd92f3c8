"""The work of many candidates, computed once for each distinct combination of the choices that it depends on."""

from dataclasses import dataclass, replace

import numpy as np

from shardwright.base import Array, IntArray, distinct
from shardwright.costmodel.layers import RowWork, WorkModel
from shardwright.costmodel.op_times import OpTimes
from shardwright.specs import SYNC_COLUMNS, Candidates, TrainingSpec
from shardwright.specs.model import ModelSpec


@dataclass(frozen=True)
class DistinctRows:
    """R rows with the work of each distinct candidate (U,), and which of those each candidate (N,) is."""

    works: list[RowWork]
    of_candidate: IntArray

    def __len__(self) -> int:
        return len(self.works)

    def stacked(self, name: str) -> Array:
        """(N, R) or (N, R, P): one kind of work of every candidate."""
        return np.stack([getattr(work, name) for work in self.works], axis=1).astype(float)[self.of_candidate]


def distinct_rows(
    model: ModelSpec, training: TrainingSpec, candidates: Candidates, times: OpTimes, *, mtp_apart: bool = False
) -> DistinctRows:
    """Return the work of every row for every candidate, computed once for
    candidates that differ only in later choices."""
    if any(np.ndim(value) for value in vars(times.constants).values()):  # each candidate has its own constants
        works = WorkModel(model, training, times, candidates).rows(mtp_apart=mtp_apart)
        return DistinctRows(works, np.arange(len(candidates)))
    one = np.ones_like(candidates.tp)
    # a microbatch's exchange hides behind another one, if the pipeline has it
    paired = (candidates.ep > 1) & training.overlaps_dispatch
    # experts also spread over data-parallel ranks, which may also add up how often each is chosen
    over_data = (candidates.ep > 1) | training.global_balance
    # beside frozen weights the head asks whether its microbatch is the only one
    fewest = one if training.trainable.trains_all else np.minimum(candidates.microbatches, 2)
    alike = replace(
        candidates,
        pp=np.where(paired, candidates.pp, np.minimum(candidates.pp, 2)),
        dp_replicate=np.where(over_data, candidates.dp_replicate, 1),
        dp_shard=np.where(over_data, candidates.dp_shard, 1),
        microbatches=np.where(paired, candidates.microbatches, fewest),
        stages_per_rank=np.where(paired, candidates.stages_per_rank, one),
        zero_stage=candidates.zero_stage * training.software.hooks_modules,
        offload_optimizer=0 * one,
        offload_gradients=0 * one,
        offload_parameters=0 * one,
        offload_nvme=0 * one,
        delayed_update=0 * one,
        **dict.fromkeys(SYNC_COLUMNS, 0 * one),
    )
    kinds = distinct(list(vars(alike).values()))
    return DistinctRows(WorkModel(model, training, times, alike[kinds.first]).rows(mtp_apart=mtp_apart), kinds.of_row)
