"""From a table row to the plans it may have run: one, or several where the row leaves a choice unknown."""

import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

from shardwright.costmodel.even_stages import even_stages
from shardwright.costmodel.plan import LayerRun, Mesh, Offload, Plan, RecomputePolicy, ScheduleName, Stage, ZeroStage

from .divisors import divisors
from .skipped_row import SkippedRowError
from .table import TableRow

_ZERO_STAGES: dict[str, ZeroStage] = {
    "0": 0,
    "1": 1,
    "2": 2,
    "3": 3,
    "fsdp": 3,
    "fsdp-full": 3,
    "fsdp-grad-op": 2,
}
_RECOMPUTE_POLICIES: tuple[RecomputePolicy, ...] = ("none", "selective", "full")
_INTERLEAVING_FRAMEWORKS = ("megatron-lm", "megatron-core", "nemo")
_OTHER_SELECTIVE = ("torchtitan", "maxtext")  # theirs also recomputes some matmuls, and keeps the attention
_SHARD_GROUP = re.compile(r"(?:zero1 group(?: size)?|FSDP shard group)[ =](-?\d+)")


class _Layout(NamedTuple):
    """What a row fixes about its mesh and batch. `shard_group`: ranks that share one copy of the sharded state."""

    pp: int
    dp: int
    tp: int
    shard_group: int
    sequences_per_rank: int
    layers: int
    sequence_parallel: bool
    optimizer_on_host: bool


def plans_of_row(row: TableRow, layers: int) -> tuple[list[Plan], list[str]]:
    """Every plan that `row` can mean, in order of preference, and what was assumed to read it.

    A row that states all has one. A choice it leaves unknown (micro batch, recompute, ZeRO stage, chunks per pipeline
    rank) ranges over the values that divide evenly; who asks takes the one predicted to be fastest.

    Raises:
        SkippedRowError: the row uses what a plan cannot say (context or expert parallelism, offload of parameters or
            activations), or leaves the mesh or the batch unknown.
    """
    _refuse_what_no_plan_says(row)
    layout = _layout(row, layers)
    zero_stages, micro_batches = _zero_stages(row, layout), _micro_batches(row, layout)
    recomputes, chunks = _recomputes(row), _chunks(row, layout)
    plans = [
        plan
        for zero, micro, recompute, chunk in itertools.product(zero_stages, micro_batches, recomputes, chunks)
        if (plan := _plan(layout, zero, micro, recompute, chunk)) is not None
    ]
    if not plans:
        raise SkippedRowError("layers or microbatches do not divide by the interleaved schedule's ranks")
    unknown = [
        name
        for name, values in (
            ("micro batch", micro_batches),
            ("recompute", recomputes),
            ("ZeRO stage", zero_stages),
            ("chunks per pipeline rank", chunks),
        )
        if len(values) > 1
    ]
    assumptions = [f"{name}: the fastest predicted" for name in unknown]
    if recomputes == ("selective",) and (row.framework or "").lower().startswith(_OTHER_SELECTIVE):
        assumptions.append("selective recompute of other operators read as the attention core")
    return plans, assumptions


def _refuse_what_no_plan_says(row: TableRow) -> None:
    if (row.cp or 1) > 1:
        raise SkippedRowError("context parallelism is not available in this version")
    if (row.ep or 1) > 1:
        raise SkippedRowError("expert parallelism is not available in this version")
    offload = (row.offload or "none").lower()
    if "param" in offload or "activation" in offload:
        raise SkippedRowError("offload of parameters or activations is not available in this version")


def _layout(row: TableRow, layers: int) -> _Layout:
    if row.tp is None or row.pp is None:
        raise SkippedRowError("tp or pp unknown")
    model_ranks = row.tp * row.pp
    dp = row.dp or (row.gpus // model_ranks if row.gpus and row.gpus % model_ranks == 0 else None)
    if dp is None:
        raise SkippedRowError("dp unknown")
    if row.gpus is not None and dp * model_ranks != row.gpus:
        raise SkippedRowError("tp * pp * dp is not the number of devices")
    if row.global_batch is None:
        raise SkippedRowError("global_batch unknown")
    if row.global_batch % dp:
        raise SkippedRowError("global_batch is not a multiple of dp: ranks had unequal work")
    if layers < row.pp:
        raise SkippedRowError("fewer layers than pipeline ranks")
    stated = _SHARD_GROUP.search(row.notes or "")
    group = int(stated[1]) if stated else dp
    return _Layout(
        pp=row.pp,
        dp=dp,
        tp=row.tp,
        shard_group=group if 0 < group <= dp and dp % group == 0 else dp,
        sequences_per_rank=row.global_batch // dp,
        layers=layers,
        sequence_parallel=True if row.sp is None else row.sp,
        optimizer_on_host="optimizer" in (row.offload or "").lower(),
    )


def _zero_stages(row: TableRow, layout: _Layout) -> Sequence[ZeroStage]:
    if layout.shard_group == 1:
        return (0,)
    if row.zero_or_fsdp is None:
        return (0, 1)
    folded = row.zero_or_fsdp.lower().removeprefix("zero").removeprefix("-")
    if folded not in _ZERO_STAGES:
        raise SkippedRowError(f"zero_or_fsdp '{row.zero_or_fsdp}' is not known")
    return (_ZERO_STAGES[folded],)


def _micro_batches(row: TableRow, layout: _Layout) -> Sequence[int]:
    sequences = layout.sequences_per_rank
    if row.micro_batch is None:
        return divisors(sequences)
    if sequences % row.micro_batch:
        raise SkippedRowError("global_batch is not a multiple of dp * micro_batch: microbatches had unequal sizes")
    return (row.micro_batch,)


def _recomputes(row: TableRow) -> tuple[RecomputePolicy, ...]:
    if row.recompute is None or row.recompute == "unknown":
        return _RECOMPUTE_POLICIES
    for policy in _RECOMPUTE_POLICIES:
        if row.recompute == policy:
            return (policy,)
    raise SkippedRowError(f"recompute '{row.recompute}' is not known")


def _chunks(row: TableRow, layout: _Layout) -> Sequence[int]:
    """Chunks per pipeline rank: as stated; where Megatron's interleaving is possible and nothing is said, any even one."""
    if row.vpp is not None:
        return (row.vpp,)
    framework = (row.framework or "").lower()
    if layout.pp == 1 or not framework.startswith(_INTERLEAVING_FRAMEWORKS) or "deepspeed" in framework:
        return (1,)
    layers_per_rank = layout.layers // layout.pp
    return [1, *(v for v in range(2, layers_per_rank + 1) if layout.layers % (layout.pp * v) == 0)]


def _plan(
    layout: _Layout, zero_stage: ZeroStage, micro_batch: int, recompute: RecomputePolicy, chunks: int
) -> Plan | None:
    """None where the interleaved schedule has no such microbatch count."""
    microbatches = layout.sequences_per_rank // micro_batch
    schedule: ScheduleName = "interleaved-1f1b" if chunks > 1 and layout.pp > 1 else "1f1b"
    stage_count = layout.pp * (chunks if schedule == "interleaved-1f1b" else 1)
    if stage_count > layout.layers or (schedule == "interleaved-1f1b" and microbatches % layout.pp):
        return None
    shard = layout.shard_group if zero_stage else 1
    run = LayerRun(count=1, recompute=recompute, zero_stage=zero_stage)
    return Plan(
        mesh=Mesh(pp=layout.pp, dp_replicate=layout.dp // shard, dp_shard=shard, tp=layout.tp),
        micro_batch=micro_batch,
        microbatches=microbatches,
        schedule=schedule,
        stages=tuple(
            Stage(layers=(run.model_copy(update={"count": count}),))
            for count in even_stages(layout.layers, stage_count)
        ),
        sequence_parallel=layout.sequence_parallel,
        offload=Offload(optimizer_fraction=1 if layout.optimizer_on_host else 0),
    )
