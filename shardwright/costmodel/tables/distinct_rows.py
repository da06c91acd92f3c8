"""The work of many candidates, computed once for each distinct combination of the choices that it depends on."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from shardwright.base import IntArray
from shardwright.costmodel.layers import RowWork, WorkModel
from shardwright.costmodel.op_times import OpTimes
from shardwright.specs import Candidates, TrainingSpec
from shardwright.specs.model import ModelSpec

# Up to this many codes a row are counted in a table. Beyond it a sort takes less memory.
_MOST_CODES_A_ROW = 8
_FEWEST_CODES = 1 << 16


class Distinct(NamedTuple):
    """`first` (U,): one row of each distinct combination. `of_row` (N,): the combination of each row, 0 to U - 1."""

    first: IntArray
    of_row: IntArray


def distinct(columns: Sequence[IntArray]) -> Distinct:
    """Return the distinct rows of `columns`, (N,) each, of whole numbers from 0 up."""
    codes, radix = np.zeros(len(columns[0]), dtype=np.int64), 1
    for column in columns:
        place, count = _places(column)
        if count > 1:
            codes = codes * count + place
            radix *= count
        if radix > _most_codes(len(codes)):
            _, codes = np.unique(codes, return_inverse=True)
            radix = int(codes.max()) + 1
    of_code, count = _places(codes)
    first = np.empty(count, dtype=np.int64)
    first[of_code[::-1]] = np.arange(len(codes) - 1, -1, -1)
    return Distinct(first, of_code)


def _places(numbers: IntArray) -> tuple[IntArray, int]:
    """Return the place of each of `numbers` among their distinct values, and how many of those there are."""
    highest = int(numbers.max())
    if highest == int(numbers.min()):
        return np.zeros_like(numbers), 1
    if highest >= _most_codes(len(numbers)):
        values, place = np.unique(numbers, return_inverse=True)
        return place, len(values)
    present = np.bincount(numbers) > 0
    return (np.cumsum(present) - 1)[numbers], int(present.sum())


def _most_codes(rows: int) -> int:
    return max(_FEWEST_CODES, _MOST_CODES_A_ROW * rows)


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
