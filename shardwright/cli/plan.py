"""`plan` finds the fastest plan that fits."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import (
    AUTO,
    ActivationOffloadLayersOption,
    AllowApproximateOption,
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
    DelayedUpdateOption,
    DispatchPiecesOption,
    DpReplicateOption,
    DpShardOption,
    EpOption,
    EtpOption,
    EvenStagesOption,
    ExpertDispatchOption,
    ExpertImbalanceOption,
    FastestOption,
    FixOption,
    ForbidOption,
    ForceOption,
    Fp8AttentionOption,
    GlobalBalanceOption,
    HighPrecisionLayersOption,
    HostMemoryReserveOption,
    HotExpertsOption,
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
    PhasedGlobalBatchOption,
    PhasedSeqLenOption,
    PpOption,
    PrecisionOption,
    ProfileOption,
    RecomputeOption,
    ScheduleOption,
    SequenceChunksOption,
    SequenceParallelOption,
    StackOption,
    StagesPerRankOption,
    SyncOption,
    TimeLimitOption,
    TokensPerCentroidOption,
    TpOption,
    TrainableOption,
    UlyssesDegreeOption,
    VocabularyParallelOption,
    ZeroStageOption,
    note,
    print_json,
    read_cluster,
    read_model,
    refuse_existing,
)
from .phases import plan_phases
from .plans import parameter_counts, print_plan

if TYPE_CHECKING:
    from shardwright.costmodel import PlanFile
    from shardwright.jobs import Planned


def plan(
    context: typer.Context,
    model: ModelArgument,
    cluster: ClusterOption,
    seq_len: PhasedSeqLenOption = None,
    global_batch: PhasedGlobalBatchOption = None,
    precision: PrecisionOption = AUTO,
    linear_precision: LinearPrecisionOption = None,
    allow_precision: AllowPrecisionOption = "",
    optimizer: OptimizerOption = "adamw",
    allow_approximate: AllowApproximateOption = "",
    attention: AttentionOption = AUTO,
    fp8_attention: Fp8AttentionOption = False,
    stack: StackOption = "shardwright",
    loss_chunks: ChosenLossChunksOption = None,
    overlaps_dispatch: OverlapsDispatchOption = False,
    global_balance: GlobalBalanceOption = False,
    dispatch_pieces: DispatchPiecesOption = 1,
    tokens_per_centroid: TokensPerCentroidOption = 1,
    expert_imbalance: ExpertImbalanceOption = 1.0,
    hot_experts: HotExpertsOption = 0,
    mlp_tiles: MlpTilesOption = 1,
    sequence_chunks: SequenceChunksOption = 1,
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
    delayed_update: DelayedUpdateOption = None,
    offload_activations: OffloadActivationsOption = None,
    offload: OffloadOption = False,
    sync: SyncOption = None,
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
    phases: Annotated[
        Path | None,
        typer.Option(
            is_eager=True,  # lengths and batches ask whether it is given
            help="Plan a run in phases: a TOML file of steps and of what differs in each, such as seq_len and global_batch (docs/planner.md).",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the plan file here.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report with the timeline here.")] = None,
    details: Annotated[
        bool, typer.Option("--details", help="Print every choice, step and memory by part, and all alternatives.")
    ] = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find the fastest plan that fits and print it in about ten lines."""
    from shardwright.jobs import plan_job
    from shardwright.reports.plan import others_json

    refuse_existing(out, report, force=force, inputs=[given for given in (profile, phases) if given])
    devices = read_cluster(cluster, profile, memory_reserve, host_memory_reserve, safe=True)
    if phases is not None:
        plan_phases(read_model(model), devices, context.params)
        return
    full = details or as_json or report is not None
    found = plan_job(
        read_model(model),
        devices,
        context.params,
        fix=fix,
        forbid=forbid,
        avoid=avoid,
        allow_fewer_devices=allow_fewer_devices,
        fastest=fastest,
        time_limit=time_limit,
        runners_up=3 if full else 0,
        tell=note,
    )
    certificate = [_certified(found)] if certify else []
    why = [*found.why, *certificate] if full else []
    if out:
        found.save(out)
    if report:
        found.report(report, why=why)
    if as_json:
        result = found.result
        searched = {"gap": result.gap, "bound_seconds": result.bound_seconds, "search_seconds": result.seconds}
        printed = {
            "plan_file": found.plan_file.model_dump(mode="json"),
            "parameters": parameter_counts(found.model),
            "search": searched,
            "others": others_json(found.others, found.estimate),
            "why": why,
        }
        print_json(printed)
        return
    if details:
        print_plan(found.plan_file, found.model, why, found.others)
    else:
        typer.echo(found.summary(certificate))
    if out:
        typer.echo(f"wrote {out}{_how_to_train(found.plan_file, out)}")


def _certified(planned: "Planned") -> str:
    """The sentence about what integer programs prove of the plan's stages, or why they cannot."""
    from shardwright.base import SpecError
    from shardwright.planner.why import certify

    try:
        found = certify(planned.plan, planned.model, planned.cluster, planned.training, fixed=planned.result.fixed)
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
    weights = "" if plan_file.training.trainable.trains_all else " --init-from WEIGHTS"
    return f"; train with it: shardwright run {path}{weights}"
