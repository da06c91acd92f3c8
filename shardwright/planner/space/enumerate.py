"""The space of plans: every mesh, ZeRO stage, microbatch, schedule and optimizer placement that divides, as arrays.

A new dimension needs a row of `specs.CHOICES`, a generator of its values here, and a bound. Degrees of context and
expert parallelism are the fixed ones, else 1. Offloading by fractions needs more values in `_offloads`. Groups of
different devices need `meshes_of` to yield an assignment of stages to groups beside the degrees.
"""

from dataclasses import dataclass
from typing import get_args

import numpy as np

from shardwright.base import IntArray, SpecError, divisors
from shardwright.costmodel import (
    check_context_parallel,
    check_expert_parallel,
    check_layer_counts,
    check_sequence,
    check_tensor_parallel,
)
from shardwright.specs import (
    COLUMNS,
    CONTEXT_PARALLEL,
    EXPERT_DISPATCH,
    Candidates,
    ClusterSpec,
    Mesh,
    ScheduleName,
    TrainingSpec,
    has_shape,
    splits_backward,
)
from shardwright.specs.model import ModelSpec

from . import refusals
from .fixed import Fixed
from .meshes import meshes_of
from .stage_sizes import divides_into_stages

SCHEDULES: tuple[ScheduleName, ...] = get_args(ScheduleName)
# GPipe is tried only where it is fixed. It keeps every microbatch alive. It is the fastest only where messages between
# stages are slow, because its forwards hide them. Schedules that split the backward have no bound yet.
SEARCHED: tuple[ScheduleName, ...] = ("1f1b", "interleaved-1f1b")

_BASE_CHOICES = tuple(choice for choice in COLUMNS if choice.name != "stages_per_rank")
_COLUMNS = (*(choice.name for choice in _BASE_CHOICES), "microbatches", "stages_per_rank")
_PP, _MICROBATCHES = _COLUMNS.index("pp"), _COLUMNS.index("microbatches")

# At 8 stages on each rank the bubble is an eighth of that of 1F1B. More shorten it little, and each adds a message for
# every microbatch.
MAX_STAGES_PER_RANK = 8


@dataclass(frozen=True)
class Space:
    """N plans without their stages: entry `i` is `base[base_index[i]]` under schedule `SCHEDULES[schedule[i]]`.

    `fixed`: the choices that every entry keeps. Cost tables depend on `base` alone, so schedules with equally many
    stages on a rank share them.
    """

    base: Candidates
    base_index: IntArray
    schedule: IntArray
    stages_per_rank: IntArray
    fixed: Fixed

    def __len__(self) -> int:
        return len(self.base_index)

    @property
    def even_stages(self) -> bool:
        """Whether all stages must hold the same number of layers. Every entry of such a space allows it."""
        return bool(self.fixed.even_stages)

    def column(self, name: str) -> IntArray:
        """Return a choice of every entry as numbers (N,): `schedule` in `SCHEDULES`, the others as in `Candidates`."""
        if name == "schedule":
            return self.schedule
        values: IntArray = getattr(self.base, name)[self.base_index]
        return values

    def schedule_name(self, entry: int) -> ScheduleName:
        return SCHEDULES[int(self.schedule[entry])]


def enumerate_space(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed | None = None
) -> Space:
    """Return every combination that divides model, batch and cluster and keeps the fixed choices.

    Raises:
        SpecError: a fixed choice is not searched, or contradicts another one, the model, the batch or the cluster; or
            nothing divides.
    """
    fixed = fixed or Fixed()
    _check(model, cluster, training, fixed)
    meshes = list(meshes_of(model, cluster, training, fixed))
    if not meshes:
        raise SpecError(refusals.no_mesh(model, cluster, training, fixed))
    rows = [
        _row(mesh, zero, micro_batch, microbatches, offload, fixed)
        for mesh in meshes
        for zero in _zero_stages(mesh, fixed)
        for micro_batch, microbatches in _microbatches(mesh, training, fixed)
        for offload in _offloads(cluster, fixed)
    ]
    if not rows:
        raise SpecError(refusals.no_microbatch(meshes, training, fixed))
    bases: dict[tuple[int, ...], int] = {}
    entries = [
        (bases.setdefault((*row, chunks), len(bases)), schedule, chunks)
        for row in rows
        for schedule, chunks in _schedules(row[_PP], row[_MICROBATCHES], model, training, fixed)
    ]
    if not entries:
        raise SpecError(refusals.no_schedule(model, cluster, training, meshes, fixed))
    columns = np.array(list(bases), dtype=np.int64).T
    base = Candidates(**dict(zip(_COLUMNS, columns, strict=True)))
    base_index, schedules, chunk_counts = np.array(entries, dtype=np.int64).T
    return Space(base, base_index, schedules, chunk_counts, fixed)


def _row(mesh: Mesh, zero: int, micro_batch: int, microbatches: int, offload: int, fixed: Fixed) -> tuple[int, ...]:
    """Return the numbers of one base candidate without its chunks, in the order of `_COLUMNS`."""
    values = {
        **dict(mesh),
        "micro_batch": micro_batch,
        "zero_stage": zero,
        "sequence_parallel": mesh.tp > 1 and fixed.sequence_parallel is not False,
        "offload_optimizer": offload,
        "context_parallel": fixed.context_parallel or CONTEXT_PARALLEL[0],
        "expert_dispatch": fixed.expert_dispatch or EXPERT_DISPATCH[0],
    }
    return (*(choice.number(values[choice.name]) for choice in _BASE_CHOICES), microbatches)


def _check(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed) -> None:
    """Check the fixed choices that can be checked before enumeration.

    Raises:
        SpecError: see `enumerate_space`.
    """
    if fixed.schedule is not None and splits_backward(fixed.schedule) and fixed.stages is None:
        planned = ", ".join((*SEARCHED, "gpipe"))
        raise SpecError(
            f"schedule {fixed.schedule} is estimated, simulated and run from a plan file, not planned yet; plan with {planned}"
        )
    check_sequence(model, training)
    check_layer_counts(model, training)
    if fixed.tp is not None:
        split_sequence = fixed.tp > 1 and fixed.sequence_parallel is not False
        split_by = fixed.etp or max(1, fixed.tp // (fixed.ep or 1))
        check_tensor_parallel(fixed.tp, model, training, sequence_parallel=split_sequence, expert_tp=split_by)
    if fixed.etp and (fixed.ep or 1) == 1:
        raise SpecError(f"etp {fixed.etp} splits the experts that ep spreads, and ep is 1; set ep, or leave etp out")
    check_expert_parallel(fixed.ep or 1, model)
    kind, split = fixed.context_parallel or CONTEXT_PARALLEL[0], bool(fixed.tp and fixed.sequence_parallel is not False)
    check_context_parallel(fixed.cp or 1, fixed.tp or 1, kind, model, training, sequence_parallel=split)
    if fixed.offload_optimizer and not cluster.node.device.has_own_memory:
        raise SpecError(
            "offload_optimizer 1 moves the optimizer to the host, and a CPU device keeps it there already; leave it out"
        )


def _zero_stages(mesh: Mesh, fixed: Fixed) -> list[int]:
    if fixed.zero_stage is not None:
        return [fixed.zero_stage]
    return [*([0] if mesh.dp_shard == 1 else []), *([1, 2, 3] if mesh.shard_ranks > 1 else [])]


def _microbatches(mesh: Mesh, training: TrainingSpec, fixed: Fixed) -> list[tuple[int, int]]:
    """Return each (sequences of a microbatch, microbatches of a step) of one data-parallel rank."""
    sequences = training.global_batch // mesh.dp
    return [(size, sequences // size) for size in divisors(sequences) if fixed.micro_batch in (None, size)]


def _offloads(cluster: ClusterSpec, fixed: Fixed) -> list[int]:
    if fixed.offload_optimizer is not None:
        return [fixed.offload_optimizer]
    return [0, 1] if cluster.node.device.has_own_memory else [0]


def _schedules(
    pp: int, microbatches: int, model: ModelSpec, training: TrainingSpec, fixed: Fixed
) -> list[tuple[int, int]]:
    """Return each (index into `SCHEDULES`, stages per rank) that can run."""
    found = []
    for name in SEARCHED if fixed.schedule is None else (fixed.schedule,):
        index = SCHEDULES.index(name)
        if fixed.stages is not None:
            if has_shape(name, pp, len(fixed.stages), microbatches):
                found.append((index, len(fixed.stages) // pp))
        elif name != "interleaved-1f1b":
            found.append((index, 1))
        elif pp > 1 and microbatches % pp == 0:
            most = (model.layer_count + 2) // pp  # with a layer each for embedding and head
            if fixed.stages_per_rank is None and not fixed.even_stages:  # few sizes are even
                most = min(most, MAX_STAGES_PER_RANK)
            found += [(index, chunks) for chunks in range(2, most + 1)]
    if fixed.stages is None or fixed.even_stages:
        even, counts_ends = bool(fixed.even_stages), training.software.counts_ends
        found = [
            (index, chunks)
            for index, chunks in found
            if divides_into_stages(model.layer_count, pp, chunks, even=even, counts_ends=counts_ends)
        ]
    return [choice for choice in found if fixed.stages_per_rank in (None, choice[1])]
