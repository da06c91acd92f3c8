"""`plan` finds the fastest plan that fits; `explain` says what bounds a plan and what its neighbours cost."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .choice_options import (
    AllowFewerDevicesOption,
    AvoidOption,
    CertifyOption,
    ContextParallelOption,
    CpOption,
    DpReplicateOption,
    DpShardOption,
    EpOption,
    EtpOption,
    EvenStagesOption,
    ExpertDispatchOption,
    FastestOption,
    FixOption,
    ForbidOption,
    MicroBatchOption,
    OffloadActivationsOption,
    OffloadGradientsOption,
    OffloadNvmeOption,
    OffloadOptimizerOption,
    OffloadOption,
    OffloadParametersOption,
    OrderOption,
    PpOption,
    RecomputeOption,
    ScheduleOption,
    SequenceParallelOption,
    StagesPerRankOption,
    TimeLimitOption,
    TpOption,
    UlyssesDegreeOption,
    VocabularyParallelOption,
    ZeroStageOption,
)
from .options import (
    ActivationOffloadLayersOption,
    AllowPrecisionOption,
    AttentionOption,
    CheckpointEveryOption,
    CheckpointSecondsOption,
    ChosenLossChunksOption,
    ChosenRecomputeModulesOption,
    ClusterOption,
    CudaGraphsOption,
    ForceOption,
    Fp8AttentionOption,
    GlobalBatchOption,
    HighPrecisionLayersOption,
    HostMemoryReserveOption,
    JsonOption,
    LengthsOption,
    LinearPrecisionOption,
    MemoryReserveOption,
    MlpTilesOption,
    ModelArgument,
    MtbfDeviceOption,
    MtbfNodeOption,
    MtpLayersOption,
    OptimizerOption,
    OverlapsDispatchOption,
    PackingOption,
    PlanArgument,
    PrecisionOption,
    ProfileOption,
    RestartSecondsOption,
    SeqLenOption,
    StackOption,
    TrainableOption,
    console,
    end_infeasible,
    print_json,
    read_cluster,
    read_may_choose,
    read_model,
    read_plan,
    read_reliability,
    read_training,
    refuse_existing,
    tell_what_lacks,
)

if TYPE_CHECKING:
    from shardwright.costmodel import PlanFile
    from shardwright.costmodel.op_times import OpTimes
    from shardwright.planner.branching import SearchResult
    from shardwright.reports.plan import OtherPlan
    from shardwright.specs import ClusterSpec, Measurement, TrainingSpec
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
    attention: AttentionOption = "flash",
    fp8_attention: Fp8AttentionOption = False,
    stack: StackOption = "shardwright",
    loss_chunks: ChosenLossChunksOption = 1,
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
    from shardwright.catalog import without
    from shardwright.planner import TOLERANCE
    from shardwright.planner.nearby import search_job
    from shardwright.planner.space import asked
    from shardwright.planner.why import explain as explain_plan
    from shardwright.planner.why import overlooked, what_was_chosen, what_was_given_up
    from shardwright.reports.plan import OtherPlan, others_json

    if not time_limit > 0:
        raise SpecError(f"--time-limit is {time_limit}: give a number of seconds above 0")
    refuse_existing(out, report, force=force, inputs=[profile] if profile else [])
    options = context.params
    closed, may_choose = read_may_choose(options)
    fixed = asked(options, fix=fix or (), forbid=forbid or ())
    devices = without(read_cluster(cluster, profile, memory_reserve, host_memory_reserve, safe=True), avoid or ())
    whole = read_model(model), devices, read_training(closed)
    full = details or as_json or report is not None
    tolerance = 0.0 if fastest else TOLERANCE
    found = search_job(
        *whole,
        fixed=fixed,
        allow_fewer_devices=allow_fewer_devices,
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
        *_lacking(*job),
    ]
    if certify:
        notes.append(_certified(*job, result))
    why = [*explain_plan(result, *job), *notes] if full else []
    plan_file = _plan_file(*job, result)
    if out:
        from shardwright.costmodel import write_plan_file

        write_plan_file(out, plan_file)
    others = tuple(OtherPlan(one.names, one.plan, one.estimate, one.free_bytes) for one in result.trade_offs)
    if report:
        _write_report(report, plan_file, why, others=others)
    if as_json:
        searched = {"gap": result.gap, "bound_seconds": result.bound_seconds, "search_seconds": result.seconds}
        printed = {"plan_file": plan_file.model_dump(mode="json"), "parameters": _parameters(job[0])}
        print_json({**printed, "search": searched, "others": others_json(others, result.estimate), "why": why})
        return
    if details:
        _print_plan(plan_file, job[0], why, others)
    else:
        typer.echo(_summary(*job, result, notes, others))
    if out:
        typer.echo(f"wrote {out}{_how_to_train(plan_file, out)}")


def explain(
    plan_path: PlanArgument,
    profile: ProfileOption = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report with the timeline here.")] = None,
    measurement: Annotated[Path | None, typer.Option(help="Compare with a run's measurement.json.")] = None,
    pipeline_layout: Annotated[
        str | None,
        typer.Option(help="Deal the layers to stages as this layout of Megatron-Core does, such as 'Et*3|(tt|)*2tL'."),
    ] = None,
    step_noise: Annotated[
        float | None, typer.Option(help="Set the standard deviation of a rank's compute time, as a share of it.")
    ] = None,
    mtbf_device_hours: MtbfDeviceOption = None,
    mtbf_node_hours: MtbfNodeOption = None,
    checkpoint_seconds: CheckpointSecondsOption = None,
    restart_seconds: RestartSecondsOption = None,
    checkpoint_every: CheckpointEveryOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Explain a plan: what bounds it, what its neighbours would cost, and how sure that is."""
    from shardwright.costmodel import estimate_plan, goodput
    from shardwright.planner.why import explain as explain_plan
    from shardwright.reports.plan import goodput_table, measured_table
    from shardwright.specs import read_measurement

    refuse_existing(report, force=force, inputs=[path for path in (plan_path, profile, measurement) if path])
    reliability = read_reliability(
        mtbf_device_hours=mtbf_device_hours,
        mtbf_node_hours=mtbf_node_hours,
        checkpoint_seconds=checkpoint_seconds,
        restart_seconds=restart_seconds,
        checkpoint_every=checkpoint_every,
    )
    written, model = read_plan(plan_path, profile)
    if pipeline_layout:
        written = _dealt(written, model, pipeline_layout)
    job = (model, written.cluster, written.training, written.plan)
    times = _times(written, step_noise)
    # what the file says was true when it was written: a plan changed by hand has other costs
    plan_file = written.model_copy(update={"estimate": estimate_plan(*job, times)})
    lacking = tell_what_lacks(plan_file.estimated(), written.cluster)
    left = goodput(plan_file.estimated(), written.cluster, reliability) if reliability else None
    measured = read_measurement(measurement) if measurement else None
    beside = measured_table(plan_file.plan, plan_file.estimated(), measured) if measured else None
    why = explain_plan(plan_file.plan, model, plan_file.cluster, plan_file.training, times=times)
    why += _lacking(model, plan_file.cluster, plan_file.training)
    if report:
        _write_report(report, plan_file, why, measured, times)
    if as_json:
        run = {"measurement": measured.model_dump(mode="json")} if measured else {}
        failures = {"goodput": left.model_dump(mode="json")} if left else {}
        printed = {"plan_file": plan_file.model_dump(mode="json"), "parameters": _parameters(model)}
        print_json({**printed, "infeasible": lacking, "why": why, **run, **failures})
    else:
        _print_plan(plan_file, model, why)
        if left:
            console().print(goodput_table({plan_path.name: left}))
        if beside:
            console().print(beside)
    end_infeasible(lacking)


def _dealt(plan_file: "PlanFile", model: "ModelSpec", layout: str) -> "PlanFile":
    """The plan with its layers dealt to stages by `layout`, and nothing else changed.

    Raises:
        SpecError: the layout is not one of this model and mesh, or the schedule does not accept it.
    """
    from shardwright.costmodel import read_layout, with_layout

    plan, mtp_layers = plan_file.plan, plan_file.training.mtp_layers
    stages = read_layout(layout, layers=model.layer_count, mtp_layers=mtp_layers, pp=plan.mesh.pp)
    return plan_file.model_copy(update={"plan": with_layout(plan, stages)})


def _parameters(model: "ModelSpec") -> dict[str, int]:
    """How many parameters were read: all, and those that one token passes through."""
    return {"total": model.parameter_count, "active": model.active_parameter_count}


def _lacking(model: "ModelSpec", cluster: "ClusterSpec", training: "TrainingSpec") -> list[str]:
    from shardwright.catalog import what_profile_lacks

    sentence = what_profile_lacks(cluster, training, model)
    return [sentence] if sentence else []


def _times(plan_file: "PlanFile", step_noise: float | None) -> "OpTimes":
    """The times of the plan's cluster, with the noise that is given, if any.

    Raises:
        SpecError: the noise is not in [0, 1).
    """
    from dataclasses import replace

    from shardwright.base import SpecError
    from shardwright.costmodel.op_times import CALIBRATED, op_times

    # on a mixed cluster each group has times of its own, and takes the constants of these
    cluster = plan_file.cluster.alone(0) if plan_file.cluster.is_mixed else plan_file.cluster
    if step_noise is None:
        return op_times(cluster, plan_file.training)
    if not 0 <= step_noise < 1:
        raise SpecError(f"--step-noise is {step_noise}: give a share from 0 up to 1, such as 0.01")
    return op_times(cluster, plan_file.training, replace(CALIBRATED, step_noise=step_noise))


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


def _write_report(
    path: Path,
    plan_file: "PlanFile",
    why: list[str],
    measurement: "Measurement | None" = None,
    times: "OpTimes | None" = None,
    others: "tuple[OtherPlan, ...]" = (),
) -> None:
    from shardwright.costmodel import simulate_plan
    from shardwright.reports.plan import Report, write_report

    model = plan_file.model()
    run = (model, plan_file.cluster, plan_file.training, plan_file.plan)
    write_report(
        path,
        Report(
            model=model,
            cluster=plan_file.cluster,
            training=plan_file.training,
            plan=plan_file.plan,
            estimate=plan_file.estimated(),
            why=why,
            timeline=simulate_plan(*run, times),
            others=others,
            measurement=measurement,
        ),
    )


def _print_plan(
    plan_file: "PlanFile", model: "ModelSpec", why: list[str], others: "tuple[OtherPlan, ...]" = ()
) -> None:
    from rich.text import Text

    from shardwright.reports.plan import memory_table, others_table, plan_table, step_table

    estimate, printed = plan_file.estimated(), console()
    printed.print(Text.assemble((plan_file.model_name, "bold"), f" on {plan_file.cluster.name}"))
    printed.print(plan_table(plan_file.plan, estimate, plan_file.training, model=model, cluster=plan_file.cluster))
    printed.print(step_table(estimate))
    printed.print(memory_table(estimate, plan_file.cluster))
    if others:
        printed.print(others_table(others, estimate))
    printed.print("[bold]Why[/bold]")
    for line in why:
        printed.print(f"- {line}", highlight=False, markup=False)
