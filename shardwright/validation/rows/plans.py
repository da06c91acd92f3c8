"""From a table row to the plans it may have run: one, or several where the row leaves a choice unknown."""

import itertools
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from pydantic import ValidationError

from shardwright.base import divisors
from shardwright.planner.space import Fixed
from shardwright.specs import LayerRun, Mesh, Offload, Plan, RecomputePolicy, ScheduleName, Stage, ZeroStage

from .axes import RowAxes, axes_of_row, folds
from .schedule import PipelineChoice, pipelines_of_row, stage_sizes
from .table import SkippedRowError, TableRow

# How sources name what is sharded, without case, separators and the word "zero".
_ZERO_STAGES: dict[str, ZeroStage] = {
    **dict.fromkeys(("0", "none", "no", "false", "ddp"), 0),
    **dict.fromkeys(("1", "distributedoptimizer", "distopt"), 1),
    **dict.fromkeys(("2", "fsdpgradop", "shardgradop"), 2),
    **dict.fromkeys(("3", "fsdp", "fsdp2", "fsdpfull", "fullshard", "hsdp", "hybridshard"), 3),
}
_RECOMPUTES: dict[str, "_Recompute"] = {
    **dict.fromkeys(("none", "no", "false", "off"), "none"),
    **dict.fromkeys(("selective", "sac"), "selective"),
    **dict.fromkeys(("full", "yes", "true", "uniform"), "full"),
}
_RECOMPUTE_POLICIES: tuple[RecomputePolicy, ...] = ("none", "selective", "full")
# torchtitan's "selective layer": every second layer in full, the default of its option
_EVERY_SECOND_LAYER = re.compile(r"selective layer\b", re.IGNORECASE)
_ADDED_ONE_BY_ONE = re.compile(r"cumulative technique:", re.IGNORECASE)
_CHECKPOINTING_ADDED = re.compile(r"\+ activation checkpointing", re.IGNORECASE)
_SHARDS_PARAMETERS = ("llm-foundry", "torchtitan", "torchtune", "PyTorch", "Lightning", "NeMo AutoModel", "DeepSpeed")
_SHARD_GROUP = re.compile(r"(?:zero1 group(?: size)?|FSDP shard group)[ =](-?\d+)")

_Recompute = Literal["none", "selective", "full", "every second"]


class RowPlans(NamedTuple):
    """The plans that a row can mean.

    `plans`: every possible plan with even stages, the plainest first; one plan if the row leaves nothing unknown.
    `fixed`: what a search must keep, once for each possible ZeRO stage; empty if nothing is unknown, or if
    a search cannot keep what the row states. `unknown`: names of the choices that the row leaves open.
    """

    plans: tuple[Plan, ...]
    fixed: tuple[Fixed, ...]
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
    optimizer_on_host: bool
    axes: RowAxes


class _Choices(NamedTuple):
    """Possible values of each choice; one value if the row states it."""

    zero_stages: Sequence[ZeroStage]
    micro_batches: Sequence[int]
    recomputes: Sequence[_Recompute]
    pipelines: Sequence[PipelineChoice]

    def unknown(self) -> tuple[str, ...]:
        names = ("ZeRO stage", "micro batch", "recompute", "stages per pipeline rank")
        return tuple(name for name, values in zip(names, self, strict=True) if len(values) > 1)


def plans_of_row(row: TableRow, family: str, layers: int) -> tuple[RowPlans, list[str]]:
    """The plans that `row` can mean, and what was assumed to read it. `family` is that of its software.

    Raises:
        SkippedRowError: the row uses what a plan cannot describe (offload of parameters or activations), or leaves the mesh or
            the batch unknown.
    """
    _refuse_what_no_plan_says(row)
    axes, assumptions = axes_of_row(row, family)
    layout = _layout(row, family, layers, axes)
    choices = _Choices(
        zero_stages=_zero_stages(row, layout),
        micro_batches=_micro_batches(row, layout),
        recomputes=_recomputes(row),
        pipelines=pipelines_of_row(row, family, layout.pp, layers),
    )
    plans = tuple(plan for choice in itertools.product(*choices) if (plan := _plan(row, layout, *choice)) is not None)
    if not plans:
        raise SkippedRowError(
            "layers or microbatches do not divide by the schedule's stages, or experts over the ranks"
            if axes.ep > 1
            else "layers or microbatches do not divide by the schedule's stages"
        )
    unknown = choices.unknown()
    if row.micro_batch is None and _by_stages(layout):
        assumptions.append("as many microbatches as pipeline ranks, torchtitan's default")
    if row.sp is None and layout.tp > 1:
        assumptions.append("sequence parallelism beside tensor parallelism")
    if "every second" in choices.recomputes:
        assumptions.append("selective recompute by layer: every second one")
    return RowPlans(plans, _fixed(layout, choices) if unknown else (), unknown), assumptions


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
    if row.global_batch is None:
        raise SkippedRowError("global_batch unknown")
    if row.global_batch % dp:
        raise SkippedRowError("global_batch is not a multiple of dp: ranks had unequal work")
    if layers < row.pp:
        raise SkippedRowError("fewer layers than pipeline ranks")
    return _Layout(
        family=family,
        pp=row.pp,
        dp=dp,
        tp=row.tp,
        shard_group=_shard_group(row, dp),
        sequences_per_rank=row.global_batch // dp,
        layers=layers,
        sequence_parallel=row.tp > 1 if row.sp is None else row.sp,
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


def _zero_stages(row: TableRow, layout: _Layout) -> Sequence[ZeroStage]:
    if layout.shard_group * layout.axes.cp == 1:
        return (0,)
    if row.zero_or_fsdp is None:
        return (0, 1, 2, 3) if layout.family in _SHARDS_PARAMETERS else (0, 1)
    folded = re.sub(r"[\W_]+", "", row.zero_or_fsdp.lower()).removeprefix("zero")
    if folded not in _ZERO_STAGES:
        raise SkippedRowError(f"zero_or_fsdp '{row.zero_or_fsdp}' is not known")
    stage = _ZERO_STAGES[folded]
    if stage == 3 and layout.pp > 1 and layout.family == "torchtitan":
        # in a pipeline it keeps gathered parameters from the first microbatch to the last, and reduces once, whole, in fp32
        return (1,)
    return (stage,)


def _by_stages(layout: _Layout) -> bool:
    """torchtitan makes as many microbatches as there are pipeline ranks unless told otherwise."""
    pipelined = layout.pp > 1 and layout.sequences_per_rank % layout.pp == 0
    return pipelined and layout.family == "torchtitan"


def _micro_batches(row: TableRow, layout: _Layout) -> Sequence[int]:
    sequences = layout.sequences_per_rank
    if row.micro_batch is None:
        return (sequences // layout.pp,) if _by_stages(layout) else divisors(sequences)
    if sequences % row.micro_batch:
        raise SkippedRowError("global_batch is not a multiple of dp * micro_batch: microbatches had unequal sizes")
    return (row.micro_batch,)


def _recomputes(row: TableRow) -> Sequence[_Recompute]:
    stated = (row.recompute or "unknown").lower()
    if stated == "unknown":
        return _remarked_recomputes(row.notes or "")
    if stated == "selective" and _EVERY_SECOND_LAYER.search(row.notes or ""):
        return ("every second",)
    if stated not in _RECOMPUTES:
        raise SkippedRowError(f"recompute '{row.recompute}' is not known")
    return (_RECOMPUTES[stated],)


def _remarked_recomputes(notes: str) -> Sequence[_Recompute]:
    """In tables that add techniques one by one, checkpointing is on from the run that adds it, and off before."""
    if _CHECKPOINTING_ADDED.search(notes):
        return ("full",)
    return ("none",) if _ADDED_ONE_BY_ONE.search(notes) else _RECOMPUTE_POLICIES


def _fixed(layout: _Layout, choices: _Choices) -> tuple[Fixed, ...]:
    """Fixed choices for a search over the unknown ones; none if a search cannot keep what the row states."""
    only_recompute = choices.recomputes[0] if len(choices.recomputes) == 1 else None
    if only_recompute == "every second" or layout.axes.cp * layout.axes.ep > 1:
        return ()
    pipelines = choices.pipelines
    even = all(layout.layers % (layout.pp * pipeline.stages_per_rank) == 0 for pipeline in pipelines)
    searches = []
    for zero_stage in choices.zero_stages:
        shard = layout.shard_group if zero_stage else 1
        searches.append(
            Fixed(
                tp=layout.tp,
                pp=layout.pp,
                dp_replicate=layout.dp // shard,
                dp_shard=shard,
                zero_stage=zero_stage,
                micro_batch=choices.micro_batches[0] if len(choices.micro_batches) == 1 else None,
                schedule=pipelines[0].schedule if len({p.schedule for p in pipelines}) == 1 else None,
                stages_per_rank=pipelines[0].stages_per_rank if len(pipelines) == 1 else None,
                recompute=only_recompute,
                offload_optimizer=1 if layout.optimizer_on_host else 0,
                even_stages=even or None,
                sequence_parallel=layout.sequence_parallel,
            )
        )
    return tuple(searches)


def _plan(
    row: TableRow,
    layout: _Layout,
    zero_stage: ZeroStage,
    micro_batch: int,
    recompute: _Recompute,
    pipeline: PipelineChoice,
) -> Plan | None:
    """The plan; None if the schedule does not accept its microbatch or stage count."""
    shard = layout.shard_group if zero_stage else 1
    # two stages may hold the embedding and the head alone
    if layout.pp * pipeline.stages_per_rank > layout.layers + 2 or not folds(layout.axes, shard, layout.tp):
        return None
    try:
        sizes = stage_sizes(row, layout.family, layout.layers, layout.pp * pipeline.stages_per_rank)
        return _built_plan(layout, sizes, zero_stage, micro_batch, recompute, pipeline.schedule)
    except ValidationError:  # a schedule's own rule
        return None


def _built_plan(
    layout: _Layout,
    sizes: Sequence[int],
    zero_stage: ZeroStage,
    micro_batch: int,
    recompute: _Recompute,
    schedule: ScheduleName,
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
        ),
        micro_batch=micro_batch,
        microbatches=layout.sequences_per_rank // micro_batch,
        schedule=schedule,
        stages=tuple(Stage(layers=_layer_runs(count, recompute, zero_stage)) for count in sizes),
        sequence_parallel=layout.sequence_parallel,
        context_parallel=layout.axes.context_parallel,
        expert_dispatch=layout.axes.expert_dispatch,
        offload=Offload(optimizer_fraction=1 if layout.optimizer_on_host else 0),
    )


def _layer_runs(count: int, recompute: _Recompute, zero_stage: ZeroStage) -> tuple[LayerRun, ...]:
    """`count` layers. For "every second layer", costs depend on the number of layers, not on their order."""
    if not count:
        return ()
    if recompute != "every second":
        return (LayerRun(count=count, recompute=recompute, zero_stage=zero_stage),)
    again: list[tuple[int, RecomputePolicy]] = [(count // 2, "full"), (count - count // 2, "none")]
    return tuple(LayerRun(count=size, recompute=policy, zero_stage=zero_stage) for size, policy in again if size)
