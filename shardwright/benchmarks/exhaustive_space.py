"""Every plan with even stages of a model on several sizes of a cluster: what the closed form is timed on."""

from dataclasses import dataclass
from itertools import product

import numpy as np

from shardwright.base import IntArray, divisors
from shardwright.costmodel import tensor_parallel_sizes
from shardwright.costmodel.even import SCHEDULE_NAMES
from shardwright.specs import POLICIES, Candidates, TrainingSpec
from shardwright.specs.model import ModelSpec

_FIELDS = ("pp", "dp_replicate", "dp_shard", "tp", "micro_batch", "microbatches", "zero_stage", "sequence_parallel")
_SCHEDULES = tuple(SCHEDULE_NAMES.index(name) for name in ("gpipe", "1f1b", "interleaved-1f1b"))


@dataclass(frozen=True)
class ExhaustiveSpace:
    """N plans; `schedule` and `recompute` are places in `closed_form.SCHEDULE_NAMES` and `tables.POLICIES`, (N,) each."""

    candidates: Candidates
    schedule: IntArray
    recompute: IntArray

    def __len__(self) -> int:
        return len(self.schedule)


def exhaustive_space(model: ModelSpec, training: TrainingSpec, devices: list[int], most_tp: int) -> ExhaustiveSpace:
    """Every split of every number of `devices`, microbatch, ZeRO stage, optimizer placement, schedule, recompute policy.

    Nothing is left out that the planner leaves out as never best: any split of the data-parallel ranks, sequence
    parallelism or not, GPipe, every number of chunks that divides the layers.
    """
    shapes = [shape for count in devices for shape in _shapes(model, training, count, most_tp)]
    choices = list(product(range(len(POLICIES)), (0, 1)))
    wide = np.repeat(np.array(shapes, dtype=np.int64), len(choices), axis=0)
    recompute, host_optimizer = np.tile(np.array(choices, dtype=np.int64), (len(shapes), 1)).T
    named = dict(zip((*_FIELDS, "schedule", "stages_per_rank"), wide.T.copy(), strict=True))
    schedule = named.pop("schedule")
    return ExhaustiveSpace(Candidates(**named, host_optimizer=host_optimizer.copy()), schedule, recompute.copy())


def _shapes(model: ModelSpec, training: TrainingSpec, devices: int, most_tp: int) -> list[tuple[int, ...]]:
    """What `_FIELDS` are, then the schedule and the stages per rank."""
    sizes = tensor_parallel_sizes(model, training, sequence_parallel=True).values()
    found: list[tuple[int, ...]] = []
    for tp in divisors(devices):
        if tp > most_tp or any(size % tp for size in sizes):
            continue
        for pp in divisors(devices // tp):
            dp = devices // (tp * pp)
            if pp > model.layer_count or training.global_batch % dp:
                continue
            sequences = training.global_batch // dp
            for dp_shard, micro_batch in product(divisors(dp), divisors(sequences)):
                microbatches = sequences // micro_batch
                degrees = (pp, dp // dp_shard, dp_shard, tp, micro_batch, microbatches)
                zero_stages = (0,) if dp_shard == 1 else (1, 2, 3)
                split = (0, 1) if tp > 1 else (0,)
                schedules = _schedules(pp, microbatches, model.layer_count)
                found += [
                    (*degrees, zero, sequence, *schedule)
                    for zero, sequence, schedule in product(zero_stages, split, schedules)
                ]
    return found


def _schedules(pp: int, microbatches: int, layers: int) -> list[tuple[int, int]]:
    gpipe, flat, interleaved = _SCHEDULES
    several = pp > 1 and microbatches % pp == 0 and layers % pp == 0
    chunks = [count for count in divisors(layers // pp) if count > 1] if several else []
    return [(gpipe, 1), (flat, 1), *((interleaved, count) for count in chunks)]
