"""From a table row to the plans it may have run: one, or several where the row leaves a choice unknown."""

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pydantic import ValidationError

from shardwright.costmodel import StageLayers
from shardwright.specs import (
    LayerRun,
    Mesh,
    Offload,
    Plan,
    RecomputePolicy,
    ScheduleName,
    Stage,
    VocabularyParallel,
    ZeroStage,
    experts_fold,
)
from shardwright.validation.table import SkippedRowError, TableRow

from .axes import RowAxes, axes_of_row, expert_splits
from .choices import EVERY_SECOND, MEGATRONS, Recompute, by_stages, micro_batches, recomputes, zero_stages
from .schedule import PipelineChoice, pipelines_of_row, stage_sizes, stated_stages, vocabulary_parallel_of

_SHARD_GROUP = re.compile(r"(?:zero1 group(?: size)?|shard group)[ =](-?\d+)")


class Reading(NamedTuple):
    """One plan that a row can mean. `chosen`: each open choice and its value here, in words."""

    plan: Plan
    chosen: tuple[tuple[str, str], ...]


class RowPlans(NamedTuple):
    """The plans that a row can mean.

    `readings`: the least recompute first, then by how usual the other choices are; one if the row leaves nothing
    unknown. Stages are even, but for the rules of a framework. `unknown`: names of the choices that the row leaves open.
    """

    readings: tuple[Reading, ...]
    unknown: tuple[str, ...]


class _Layout(NamedTuple):
    """The mesh and batch that a row fixes, and the family of its software.

    `shard_group`: ranks that share one copy of the sharded state.
    """

    family: str
    pp: int
    dp: int
    tp: int
    shard_group: int
    sequences_per_rank: int
    layers: int
    sequence_parallel: bool
    vocabulary_parallel: VocabularyParallel
    optimizer_on_host: bool
    axes: RowAxes


def plans_of_row(row: TableRow, family: str, layers: int) -> tuple[RowPlans, list[str]]:
    """The plans that `row` can mean, and what was assumed to read it. `family` is that of its software.

    Raises:
        SkippedRowError: the row uses what a plan cannot describe (offload of parameters or activations), or leaves the mesh or
            the batch unknown.
    """
    _refuse_what_no_plan_says(row)
    axes, assumptions = axes_of_row(row, family)
    layout = _layout(row, family, layers, axes)
    readings = tuple(_readings(row, layout))
    if not readings:
        raise SkippedRowError(
            "layers or microbatches do not divide by the schedule's stages, or experts over the ranks"
            if axes.ep > 1
            else "layers or microbatches do not divide by the schedule's stages"
        )
    if by_stages(row, family, pp=layout.pp, sequences=layout.sequences_per_rank):
        assumptions.append("as many microbatches as pipeline ranks, torchtitan's default")
    if row.sp is None and layout.tp > 1:
        assumptions.append("sequence parallelism beside tensor parallelism")
    if EVERY_SECOND in recomputes(row, family):
        assumptions.append("selective recompute by layer: every second one")
    return RowPlans(readings, tuple(name for name, _ in readings[0].chosen)), assumptions


def _refuse_what_no_plan_says(row: TableRow) -> None:
    offload = (row.offload or "none").lower()
    if "param" in offload or "activation" in offload:
        raise SkippedRowError("offload of parameters or activations is not available in this version")


def _layout(row: TableRow, family: str, layers: int, axes: RowAxes) -> _Layout:
    if row.tp is None or row.pp is None:
        raise SkippedRowError("tp or pp unknown")
    model_ranks = row.tp * row.pp * axes.cp
    dp = row.dp or (row.gpus // model_ranks if row.gpus and row.gpus % model_ranks == 0 else None)
    if dp is None:
        raise SkippedRowError("dp unknown")
    if row.gpus is not None and dp * model_ranks != row.gpus:
        raise SkippedRowError("tp * pp * cp * dp is not the number of devices")
    batch = row.global_batch
    if batch is None:
        raise SkippedRowError("global_batch unknown")
    if batch % dp:
        raise SkippedRowError("global_batch is not a multiple of dp: ranks had unequal work")
    if layers < row.pp:
        raise SkippedRowError("fewer layers than pipeline ranks")
    return _Layout(
        family=family,
        pp=row.pp,
        dp=dp,
        tp=row.tp,
        shard_group=_shard_group(row, dp),
        sequences_per_rank=batch // dp,
        layers=layers,
        sequence_parallel=row.tp > 1 if row.sp is None else row.sp,
        vocabulary_parallel=vocabulary_parallel_of(row),
        optimizer_on_host="optimizer" in (row.offload or "").lower(),
        axes=axes,
    )


def _shard_group(row: TableRow, dp: int) -> int:
    """The shard group in the notes; hybrid sharding without a number is within a node; otherwise all data-parallel ranks."""
    stated = _SHARD_GROUP.search(row.notes or "")
    group = int(stated[1]) if stated else dp
    if stated is None and row.zero_or_fsdp is not None and re.search(r"hsdp|hybrid", row.zero_or_fsdp.lower()):
        group = (row.gpus_per_node or dp) // (row.tp or 1)
    return group if 0 < group <= dp and dp % group == 0 else dp


def _readings(row: TableRow, layout: _Layout) -> Iterator[Reading]:
    family, pp, sequences = layout.family, layout.pp, layout.sequences_per_rank
    levels = recomputes(row, family)
    stages = zero_stages(row, family, pp=pp, shards=layout.shard_group * layout.axes.cp)
    sizes = micro_batches(row, family, pp=pp, sequences=sequences)
    pipelines = pipelines_of_row(row, family, pp, layout.layers)
    splits = expert_splits(row, layout.axes.ep, megatron=family in MEGATRONS)
    for recompute, zero_stage, micro_batch, pipeline, etp in itertools.product(
        levels, stages, sizes, pipelines, splits
    ):
        plan = _plan(row, layout, zero_stage, micro_batch, recompute, pipeline, etp)
        chosen = {
            "recompute": (levels, recompute.words),
            "ZeRO stage": (stages, str(zero_stage)),
            "micro batch": (sizes, str(micro_batch)),
            "stages per pipeline rank": (pipelines, str(pipeline.stages_per_rank)),
            "expert tensor parallelism": (splits, str(etp or "what ep leaves of tp")),
        }
        if plan is not None:
            yield Reading(plan, tuple((name, value) for name, (values, value) in chosen.items() if len(values) > 1))


def _plan(
    row: TableRow,
    layout: _Layout,
    zero_stage: ZeroStage,
    micro_batch: int,
    recompute: Recompute,
    pipeline: PipelineChoice,
    etp: int,
) -> Plan | None:
    """The plan; None if the schedule does not accept its microbatch or stage count."""
    shard = layout.shard_group if zero_stage else 1
    # two stages may hold the embedding and the head alone, and a layout's third one the prediction layers
    most = layout.layers + (3 if row.settings.pipeline_layout else 2)
    if layout.pp * pipeline.stages_per_rank > most or not experts_fold(
        shard * layout.axes.cp * layout.tp, layout.tp, layout.axes.ep, etp
    ):
        return None
    try:
        count = layout.pp * pipeline.stages_per_rank
        sizes = stated_stages(row, layout.layers, layout.pp) or [
            StageLayers(size, 0) for size in stage_sizes(row, layout.family, layout.layers, count)
        ]
        return _built_plan(layout, sizes, zero_stage, micro_batch, recompute, pipeline.schedule, etp)
    except ValidationError:  # a schedule's own rule
        return None


def _built_plan(
    layout: _Layout,
    sizes: Sequence[StageLayers],
    zero_stage: ZeroStage,
    micro_batch: int,
    recompute: Recompute,
    schedule: ScheduleName,
    etp: int,
) -> Plan:
    shard = layout.shard_group if zero_stage else 1
    return Plan(
        mesh=Mesh(
            pp=layout.pp,
            dp_replicate=layout.dp // shard,
            dp_shard=shard,
            cp=layout.axes.cp,
            tp=layout.tp,
            ep=layout.axes.ep,
            etp=etp,
        ),
        micro_batch=micro_batch,
        microbatches=layout.sequences_per_rank // micro_batch,
        schedule=schedule,
        stages=tuple(
            Stage(layers=_layer_runs(size.layers, recompute, zero_stage), mtp_layers=size.mtp_layers) for size in sizes
        ),
        sequence_parallel=layout.sequence_parallel,
        context_parallel=layout.axes.context_parallel,
        expert_dispatch=layout.axes.expert_dispatch,
        vocabulary_parallel=layout.vocabulary_parallel,
        offload=Offload(optimizer_fraction=1 if layout.optimizer_on_host else 0),
    )


def _layer_runs(count: int, recompute: Recompute, zero_stage: ZeroStage) -> tuple[LayerRun, ...]:
    """`count` layers. Costs depend on the number of recomputed layers, not on their order."""
    whole = int(count * recompute.full_share)
    others: RecomputePolicy = "selective" if recompute.selective else "none"
    sizes: list[tuple[int, RecomputePolicy]] = [(whole, "full"), (count - whole, others)]
    return tuple(LayerRun(count=size, recompute=policy, zero_stage=zero_stage) for size, policy in sizes if size)
