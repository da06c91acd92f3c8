"""`plan` finds the fastest plan that fits."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import (
    AUTO,
    ActivationOffloadLayersOption,
    AllowFewerDevicesOption,
    AllowPrecisionOption,
    AttentionOption,
    AvoidOption,
    CertifyOption,
    ChosenLossChunksOption,
    ChosenRecomputeModulesOption,
    ClusterOption,
    ContextParallelOption,
    CpOption,
    CudaGraphsOption,
    DpReplicateOption,
    DpShardOption,
    EpOption,
    EtpOption,
    EvenStagesOption,
    ExpertDispatchOption,
    FastestOption,
    FixOption,
    ForbidOption,
    ForceOption,
    Fp8AttentionOption,
    GlobalBatchOption,
    HighPrecisionLayersOption,
    HostMemoryReserveOption,
    JsonOption,
    LengthsOption,
    LinearPrecisionOption,
    MemoryReserveOption,
    MicroBatchOption,
    MlpTilesOption,
    ModelArgument,
    MtpLayersOption,
    OffloadActivationsOption,
    OffloadGradientsOption,
    OffloadNvmeOption,
    OffloadOptimizerOption,
    OffloadOption,
    OffloadParametersOption,
    OptimizerOption,
    OrderOption,
    OverlapsDispatchOption,
    PackingOption,
    PpOption,
    PrecisionOption,
    ProfileOption,
    RecomputeOption,
    ScheduleOption,
    SeqLenOption,
    SequenceParallelOption,
    StackOption,
    StagesPerRankOption,
    TimeLimitOption,
    TpOption,
    TrainableOption,
    UlyssesDegreeOption,
    VocabularyParallelOption,
    ZeroStageOption,
    print_json,
    read_cluster,
    read_may_choose,
    read_model,
    read_training,
    refuse_existing,
)
from .plan_output import parameter_counts, print_plan, profile_lacks, rivals_of, write_plan_report

if TYPE_CHECKING:
    from shardwright.costmodel import PlanFile
    from shardwright.planner.branching import SearchResult
    from shardwright.planner.why import Alternative
    from shardwright.reports.pages import Rival
    from shardwright.reports.plan import OtherPlan
    from shardwright.specs import ClusterSpec, TrainingSpec
    from shardwright.specs.model import ModelSpec


def plan(
    context: typer.Context,
    model: ModelArgument,
    cluster: ClusterOption,
    seq_len: SeqLenOption,
    global_batch: GlobalBatchOption,
    precision: PrecisionOption = "bf16",
    linear_precision: LinearPrecisionOption = None,
    allow_precision: AllowPrecisionOption = "",
    optimizer: OptimizerOption = "adamw",
    attention: AttentionOption = AUTO,
    fp8_attention: Fp8AttentionOption = False,
    stack: StackOption = "shardwright",
    loss_chunks: ChosenLossChunksOption = None,
    overlaps_dispatch: OverlapsDispatchOption = False,
    mlp_tiles: MlpTilesOption = 1,
    mtp_layers: MtpLayersOption = 0,
    activation_offload_layers: ActivationOffloadLayersOption = 0,
    high_precision_layers: HighPrecisionLayersOption = 0,
    recompute_modules: ChosenRecomputeModulesOption = "",
    cuda_graphs: CudaGraphsOption = "none",
    trainable: TrainableOption = "all",
    lengths: LengthsOption = "",
    packing: PackingOption = "",
    pp: PpOption = None,
    tp: TpOption = None,
    dp_replicate: DpReplicateOption = None,
    dp_shard: DpShardOption = None,
    cp: CpOption = None,
    ep: EpOption = None,
    etp: EtpOption = None,
    order: OrderOption = None,
    context_parallel: ContextParallelOption = None,
    ulysses_degree: UlyssesDegreeOption = None,
    expert_dispatch: ExpertDispatchOption = None,
    zero_stage: ZeroStageOption = None,
    micro_batch: MicroBatchOption = None,
    schedule: ScheduleOption = None,
    stages_per_rank: StagesPerRankOption = None,
    vocabulary_parallel: VocabularyParallelOption = None,
    recompute: RecomputeOption = None,
    offload_optimizer: OffloadOptimizerOption = None,
    offload_gradients: OffloadGradientsOption = None,
    offload_parameters: OffloadParametersOption = None,
    offload_nvme: OffloadNvmeOption = None,
    offload_activations: OffloadActivationsOption = None,
    offload: OffloadOption = False,
    fix: FixOption = None,
    forbid: ForbidOption = None,
    even_stages: EvenStagesOption = None,
    sequence_parallel: SequenceParallelOption = None,
    time_limit: TimeLimitOption = 30.0,
    allow_fewer_devices: AllowFewerDevicesOption = False,
    avoid: AvoidOption = None,
    fastest: FastestOption = False,
    certify: CertifyOption = False,
    memory_reserve: MemoryReserveOption = None,
    host_memory_reserve: HostMemoryReserveOption = None,
    profile: ProfileOption = None,
    out: Annotated[Path | None, typer.Option(help="Write the plan file here.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report with the timeline here.")] = None,
    details: Annotated[
        bool, typer.Option("--details", help="Print every choice, step and memory by part, and all alternatives.")
    ] = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find the fastest plan that fits and print it in about ten lines."""
    from shardwright.base import SpecError
    from shardwright.catalog import keeps_apart, without
    from shardwright.planner import TOLERANCE
    from shardwright.planner.mixed import ACROSS
    from shardwright.planner.nearby import search_job
    from shardwright.planner.space import asked
    from shardwright.planner.why import explain as explain_plan
    from shardwright.planner.why import neighbours, overlooked, what_was_chosen, what_was_given_up
    from shardwright.reports.plan import OtherPlan, others_json

    if not time_limit > 0:
        raise SpecError(f"--time-limit is {time_limit}: give a number of seconds above 0")
    refuse_existing(out, report, force=force, inputs=[profile] if profile else [])
    options = context.params
    closed, may_choose = read_may_choose(options)
    fixed = asked(options, fix=fix or (), forbid=forbid or ())
    given = read_cluster(cluster, profile, memory_reserve, host_memory_reserve, safe=True)
    apart, devices = keeps_apart(given, avoid or ()), without(given, avoid or ())
    model_spec = read_model(model)
    whole = model_spec, devices, read_training(closed, model_spec)
    full = details or as_json or report is not None
    tolerance = 0.0 if fastest else TOLERANCE
    found = search_job(
        *whole,
        fixed=fixed,
        allow_fewer_devices=allow_fewer_devices,
        across=() if apart else ACROSS,
        may_choose=may_choose,
        time_limit_seconds=time_limit,
        runners_up=3 if full else 0,
        tolerance=tolerance,
        list_trade_offs=True,
    )
    result, job = found.result, (whole[0], found.cluster, found.result.training)
    listed = not full and any("fastest" in other.names for other in result.trade_offs)
    notes = [
        *what_was_chosen(result),
        *([] if listed else what_was_given_up(result)),
        *found.notes,
        *overlooked(*job, result.plan, result.estimate),
        *profile_lacks(*job),
    ]
    if certify:
        notes.append(_certified(*job, result))
    near = neighbours(result, *job) if full else []
    why = [*explain_plan(result, *job, others=near), *notes] if full else []
    plan_file = _plan_file(*job, result)
    if out:
        from shardwright.costmodel import write_plan_file

        write_plan_file(out, plan_file)
    others = tuple(OtherPlan(one.names, one.plan, one.estimate, one.free_bytes) for one in result.trade_offs)
    if report:
        write_plan_report(report, plan_file, why, rivals=_rivals(*job, result, near, others))
    if as_json:
        searched = {"gap": result.gap, "bound_seconds": result.bound_seconds, "search_seconds": result.seconds}
        printed = {"plan_file": plan_file.model_dump(mode="json"), "parameters": parameter_counts(job[0])}
        print_json({**printed, "search": searched, "others": others_json(others, result.estimate), "why": why})
        return
    if details:
        print_plan(plan_file, job[0], why, others)
    else:
        typer.echo(_summary(*job, result, notes, others))
    if out:
        typer.echo(f"wrote {out}{_how_to_train(plan_file, out)}")


def _rivals(
    model: "ModelSpec",
    cluster: "ClusterSpec",
    training: "TrainingSpec",
    result: "SearchResult",
    near: "Sequence[Alternative]",
    others: "tuple[OtherPlan, ...]",
) -> "list[Rival]":
    """The rows of the report: plans that are better in some way, the neighbours, and the best plans of other meshes."""
    from shardwright.base import units
    from shardwright.costmodel import estimate_plan
    from shardwright.planner.why import difference
    from shardwright.reports.pages import Rival

    mine = result.estimate
    better = [
        Rival(
            one.title,
            one.plan,
            one.estimate,
            f"{difference(one.estimate, mine)}; {units.size(max(0.0, one.free_bytes))} free",
        )
        for one in others
    ]
    meshes = []
    for runner in () if cluster.is_mixed else result.runners_up:
        estimate = estimate_plan(model, cluster, runner.training or training, runner.plan)
        meshes.append(Rival("another mesh", runner.plan, estimate, difference(estimate, mine)))
    return [*better, *rivals_of(near, mine), *meshes]


def _summary(
    model: "ModelSpec",
    cluster: "ClusterSpec",
    training: "TrainingSpec",
    result: "SearchResult",
    notes: list[str],
    others: "tuple[OtherPlan, ...]",
) -> str:
    """The short form, with what a simpler plan would cost."""
    from shardwright.compare import simplest_rival
    from shardwright.planner.why import assumed
    from shardwright.reports.plan import Summary, summary_text

    return summary_text(
        Summary(
            model=model,
            cluster=cluster,
            training=training,
            plan=result.plan,
            estimate=result.estimate,
            rival=simplest_rival(result.plan, model, cluster, training, fixed=result.fixed),
            candidates=result.candidates_total,
            gap=result.gap,
            complete=result.complete,
            assumed=assumed(cluster),
            others=others,
            notes=tuple(notes),
        )
    )


def _certified(model: "ModelSpec", cluster: "ClusterSpec", training: "TrainingSpec", result: "SearchResult") -> str:
    """The sentence about what integer programs prove of the plan's stages, or why they cannot."""
    from shardwright.base import SpecError
    from shardwright.planner.why import certify

    try:
        found = certify(result.plan, model, cluster, training, fixed=result.fixed)
    except SpecError as reason:
        return f"No certificate: {reason}."
    proven = "proves" if found.optimal else "has proven so far"
    if found.placements:
        return (
            f"{found.solver} {proven} that no other recomputation and offload for this mesh, ZeRO stage, microbatch and partition, of "
            f"{found.placements} placements beside activations, is more than {found.gap:.2%} faster ({found.seconds:.2f} s)."
        )
    mixes = "no stage has a cheaper recompute mix" if found.mixes_agree else "a stage has a cheaper recompute mix"
    return (
        f"{found.solver} {proven} that no other partition of the layers for this mesh, ZeRO stage and microbatch is more "
        f"than {found.gap:.2%} faster, and that {mixes} ({found.seconds:.2f} s)."
    )


def _how_to_train(plan_file: "PlanFile", path: Path) -> str:
    """The command that trains with the plan, or what the plan lacks for it."""
    from shardwright.base import SpecError
    from shardwright.executor import check_can_run

    try:
        check_can_run(plan_file)
    except SpecError as lacking:
        return f"; run refuses it: {lacking}"
    return f"; train with it: shardwright run {path}"


def _plan_file(
    model: "ModelSpec", cluster: "ClusterSpec", training: "TrainingSpec", result: "SearchResult"
) -> "PlanFile":
    from shardwright.costmodel import PlanFile

    return PlanFile(
        model_name=model.name,
        model_config_json=model.config,
        cluster=cluster,
        training=training,
        plan=result.plan,
        estimate=result.estimate,
    )
