"""The space of plans: every mesh, ZeRO stage, microbatch, schedule and optimizer placement that divides, as arrays.

A new dimension enters here. Context and expert parallelism are two more degrees in `_meshes` (they are axes of `Mesh`
already); offloading by fractions is more values in `_offloads`; a zero-bubble schedule one more name in
`SCHEDULES`, with bounds of its own, and one more branch in `_schedules`; groups of different devices make `_meshes` yield an
assignment of stages to groups beside the degrees.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from shardwright.base import IntArray, SpecError
from shardwright.costmodel import check_sequence, check_tensor_parallel, tensor_parallel_sizes
from shardwright.specs import Candidates, ClusterSpec, ScheduleName, TrainingSpec
from shardwright.specs.model import ModelSpec

from .fixed import Fixed

SCHEDULES: tuple[ScheduleName, ...] = ("1f1b", "interleaved-1f1b", "gpipe")

# Chunks beyond this shorten a bubble that is by then an eighth, and each adds a message for every microbatch.
MAX_STAGES_PER_RANK = 8
# A group of at most so many data-parallel ranks is split in every way, a larger one at node boundaries only.
_SPLIT_FREELY_UP_TO = 8
# What a row of the space gives, in order. What nothing here runs yet, cp and ep, is not searched.
_CHOICES = (
    *("pp", "dp_replicate", "dp_shard", "tp", "micro_batch", "microbatches"),
    *("stages_per_rank", "zero_stage", "sequence_parallel", "host_optimizer"),
)
_CHUNKS = _CHOICES.index("stages_per_rank")


@dataclass(frozen=True)
class Space:
    """N plans without their stages: entry `i` is `base[base_index[i]]` under schedule `SCHEDULES[schedule[i]]`.

    `even_stages`: all stages must hold the same number of layers, which every entry allows.

    Cost tables depend on `base` alone, so that schedules with as many stages on a rank share them.
    """

    base: Candidates
    base_index: IntArray
    schedule: IntArray
    stages_per_rank: IntArray
    even_stages: bool = False

    def __len__(self) -> int:
        return len(self.base_index)

    def column(self, name: str) -> IntArray:
        """A field of `base` for every entry, shape (N,)."""
        values: IntArray = getattr(self.base, name)[self.base_index]
        return values

    def schedule_name(self, entry: int) -> ScheduleName:
        return SCHEDULES[int(self.schedule[entry])]


@dataclass(frozen=True)
class _Degrees:
    pp: int
    dp_replicate: int
    dp_shard: int
    tp: int


def enumerate_space(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed | None = None
) -> Space:
    """Every combination that divides model, batch and cluster and keeps what is fixed.

    Raises:
        SpecError: what is fixed is not searched, or contradicts itself, the model, the batch or the cluster; or nothing
            divides.
    """
    fixed = fixed or Fixed()
    if fixed.schedule is not None and fixed.schedule not in SCHEDULES:
        raise SpecError(
            f"schedule {fixed.schedule} is estimated, simulated and run from a plan file, not planned yet; plan with {', '.join(SCHEDULES)}"
        )
    check_sequence(model, training)
    if fixed.tp is not None:
        split_sequence = fixed.tp > 1 and fixed.sequence_parallel is not False
        check_tensor_parallel(fixed.tp, model, training, sequence_parallel=split_sequence)
    if fixed.offload_optimizer and cluster.groups[0].device.kind == "cpu":
        raise SpecError(
            "offload_optimizer 1 moves the optimizer to the host, where a CPU device has it already; leave it out"
        )
    meshes = list(_meshes(model, cluster, training, fixed))
    if not meshes:
        raise SpecError(_no_mesh(model, cluster, training, fixed))
    rows = [
        (
            mesh.pp,
            mesh.dp_replicate,
            mesh.dp_shard,
            mesh.tp,
            micro_batch,
            microbatches,
            1,
            zero,
            int(mesh.tp > 1 and fixed.sequence_parallel is not False),
            offload,
        )
        for mesh in meshes
        for zero in _zero_stages(mesh, fixed)
        for micro_batch, microbatches in _microbatches(mesh, training, fixed)
        for offload in _offloads(cluster, fixed)
    ]
    if not rows:
        raise SpecError(_no_microbatch(meshes, training, fixed))
    bases: dict[tuple[int, ...], int] = {}
    entries = [
        (bases.setdefault((*row[:_CHUNKS], choice[1], *row[_CHUNKS + 1 :]), len(bases)), *choice)
        for row in rows
        for choice in _schedules(row[0], row[5], model, fixed)
    ]
    if not entries:
        raise SpecError(_no_schedule(model, fixed))
    columns = np.array(list(bases), dtype=np.int64).T
    base = Candidates(**dict(zip(_CHOICES, columns, strict=True)))
    base_index, schedule, chunks = np.array(entries, dtype=np.int64).T
    return Space(base, base_index, schedule, chunks, even_stages=bool(fixed.even_stages))


def divisors(number: int) -> list[int]:
    """All divisors, ascending."""
    low = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return sorted({*low, *(number // d for d in low)})


def _meshes(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed) -> Iterator[_Degrees]:
    for tp in _tensor_degrees(model, cluster, training, fixed):
        for pp in divisors(cluster.devices // tp):
            if pp > model.layer_count or fixed.pp not in (None, pp):
                continue
            dp = cluster.devices // (tp * pp)
            if training.global_batch % dp:
                continue
            for dp_shard in _shard_degrees(dp, tp, cluster, fixed):
                yield _Degrees(pp, dp // dp_shard, dp_shard, tp)


def _tensor_degrees(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed) -> list[int]:
    """Degrees that divide the model and stay inside a node, where the fast links are; a fixed one may leave it."""
    if fixed.tp is not None:
        return [fixed.tp] if cluster.devices % fixed.tp == 0 else []
    split_sequence = fixed.sequence_parallel is not False
    sizes = tensor_parallel_sizes(model, training, sequence_parallel=split_sequence).values()
    return [
        tp
        for tp in divisors(cluster.devices)
        if tp <= cluster.groups[0].devices_per_node and all(size % tp == 0 for size in sizes)
    ]


def _shard_degrees(dp: int, tp: int, cluster: ClusterSpec, fixed: Fixed) -> list[int]:
    """Ways to split dp into replicas of shard groups; where it is large, only shard groups of whole nodes and of all."""
    degrees = divisors(dp)
    fixed_split = fixed.dp_shard is not None or fixed.dp_replicate is not None
    if dp > _SPLIT_FREELY_UP_TO and not fixed_split:
        per_node = cluster.groups[0].devices_per_node
        degrees = [d for d in degrees if d in (1, dp) or (d * tp) % per_node == 0]
    if fixed.zero_stage is not None:
        degrees = [d for d in degrees if (d == 1) == (fixed.zero_stage == 0)]
    return [d for d in degrees if fixed.dp_shard in (None, d) and fixed.dp_replicate in (None, dp // d)]


def _zero_stages(mesh: _Degrees, fixed: Fixed) -> list[int]:
    if fixed.zero_stage is not None:
        return [fixed.zero_stage]
    return [0] if mesh.dp_shard == 1 else [1, 2, 3]


def _microbatches(mesh: _Degrees, training: TrainingSpec, fixed: Fixed) -> list[tuple[int, int]]:
    """(sequences in a microbatch, microbatches in a step) of one data-parallel rank."""
    sequences = training.global_batch // (mesh.dp_replicate * mesh.dp_shard)
    return [(size, sequences // size) for size in divisors(sequences) if fixed.micro_batch in (None, size)]


def _offloads(cluster: ClusterSpec, fixed: Fixed) -> list[int]:
    if fixed.offload_optimizer is not None:
        return [fixed.offload_optimizer]
    return [0] if cluster.groups[0].device.kind == "cpu" else [0, 1]


def _schedules(pp: int, microbatches: int, model: ModelSpec, fixed: Fixed) -> list[tuple[int, int]]:
    """(index into SCHEDULES, stages per rank). GPipe is tried only where it is fixed.

    It keeps every microbatch alive, and wins only where messages between stages are slow: its forwards hide them.
    """
    found = []
    for index, name in enumerate(SCHEDULES):
        if fixed.schedule not in (None, name) or (name == "gpipe" and fixed.schedule is None):
            continue
        if name != "interleaved-1f1b":
            found.append((index, 1))
        elif pp > 1 and microbatches % pp == 0:
            most = model.layer_count // pp
            if fixed.stages_per_rank is None and not fixed.even_stages:  # even ones are few
                most = min(most, MAX_STAGES_PER_RANK)
            found += [(index, chunks) for chunks in range(2, most + 1)]
    if fixed.even_stages:
        found = [choice for choice in found if model.layer_count % (pp * choice[1]) == 0]
    return [choice for choice in found if fixed.stages_per_rank in (None, choice[1])]


def _no_mesh(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed) -> str:
    devices, layers = cluster.devices, model.layer_count
    degrees = {n: v for n in ("tp", "pp", "dp_replicate", "dp_shard") if (v := getattr(fixed, n)) is not None}
    shown = " x ".join(f"{name} {value}" for name, value in degrees.items())
    if fixed.pp is not None and fixed.pp > layers:
        return f"pp {fixed.pp} is more than the {layers} layers of {model.name}; give {layers} or fewer"
    if degrees and devices % prod(degrees.values()):
        return (
            f"{shown} does not divide the {devices} devices of {cluster.name}; "
            f"their product must be one of {_listed(divisors(devices))}"
        )
    if fixed.zero_stage == 0 and fixed.dp_shard not in (None, 1):
        return f"zero_stage 0 shards nothing and dp_shard is {fixed.dp_shard}; give zero_stage 1, 2 or 3, or dp_shard 1"
    if fixed.zero_stage and fixed.dp_shard == 1:
        return f"zero_stage {fixed.zero_stage} shards over dp_shard, which is 1; give zero_stage 0, or dp_shard of 2 or more"
    unbatched = fixed.model_copy(update={"zero_stage": None})
    if fixed.zero_stage is not None and any(True for _ in _meshes(model, cluster, training, unbatched)):
        return (
            f"zero_stage {fixed.zero_stage} needs two or more data-parallel ranks to shard over, and {fixed} "
            f"on {devices} devices leaves none; give zero_stage 0"
        )
    return _no_batch(model, cluster, training, fixed)


def _no_batch(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed) -> str:
    """Every mesh fails on the batch: say which numbers of data-parallel ranks there are and the nearest batch."""
    whole = training.model_copy(update={"global_batch": cluster.devices})
    open_split = fixed.model_copy(update={"zero_stage": None})
    dps = sorted({m.dp_replicate * m.dp_shard for m in _meshes(model, cluster, whole, open_split)})
    if not dps:
        return (
            f"no mesh with {fixed} uses all {cluster.devices} devices of {cluster.name} for {model.name} "
            f"({model.layer_count} layers); free one of them"
        )
    batch = training.global_batch
    near = min((max(1, round(batch / dp)) * dp for dp in dps), key=lambda size: abs(size - batch))
    return (
        f"global batch {batch} does not divide over the data-parallel ranks: on {cluster.devices} devices with {fixed} "
        f"their number is one of {_listed(dps)}; the nearest batch that does is {near}"
    )


def _no_microbatch(meshes: list[_Degrees], training: TrainingSpec, fixed: Fixed) -> str:
    per_rank = sorted({training.global_batch // (m.dp_replicate * m.dp_shard) for m in meshes})
    allowed = sorted({size for sequences in per_rank for size in divisors(sequences)})
    return (
        f"micro_batch {fixed.micro_batch} does not divide the sequences of a data-parallel rank "
        f"({_listed(per_rank)} of global batch {training.global_batch}); allowed: {_listed(allowed)}"
    )


def _no_schedule(model: ModelSpec, fixed: Fixed) -> str:
    if fixed.even_stages and fixed.pp is not None and model.layer_count % fixed.pp:
        return (
            f"even_stages needs pp that divides the {model.layer_count} layers of {model.name}, not {fixed.pp}; "
            f"allowed: {_listed(divisors(model.layer_count))}"
        )
    if fixed.schedule in ("1f1b", "gpipe"):
        return f"{fixed.schedule} runs one stage on each rank and stages_per_rank is {fixed.stages_per_rank}; give 1, or interleaved-1f1b"
    return (
        f"interleaved-1f1b needs pp of 2 or more, pp x stages_per_rank of at most {model.layer_count} (the layers of "
        f"{model.name}) and microbatches divisible by pp; nothing with {fixed} has all three"
    )


def _listed(values: list[int]) -> str:
    return ", ".join(map(str, values))
