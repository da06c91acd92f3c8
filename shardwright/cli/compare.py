"""`compare` compares plans and named strategies."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import (
    AUTO,
    ActivationOffloadLayersOption,
    AllowApproximateOption,
    AllowPrecisionOption,
    AttentionOption,
    CheckpointEveryOption,
    CheckpointSecondsOption,
    ChosenLossChunksOption,
    ChosenRecomputeModulesOption,
    ClusterOption,
    CudaGraphsOption,
    DispatchPiecesOption,
    ExpertImbalanceOption,
    ForceOption,
    Fp8AttentionOption,
    GlobalBalanceOption,
    GlobalBatchOption,
    HighPrecisionLayersOption,
    HostMemoryReserveOption,
    HotExpertsOption,
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
    PrecisionOption,
    ProfileOption,
    RestartSecondsOption,
    SeqLenOption,
    SequenceChunksOption,
    StackOption,
    TokensPerCentroidOption,
    TrainableOption,
    console,
    note_what_profile_lacks,
    print_json,
    read_cluster,
    read_model,
    read_plan,
    read_reliability,
    read_training,
    refuse_existing,
)

if TYPE_CHECKING:
    from shardwright.comparison import Searched
    from shardwright.costmodel import Goodput, PlanFile, Reliability
    from shardwright.planner import OpenChoices
    from shardwright.reports.plan import Comparison, Sweep
    from shardwright.specs import ClusterSpec, Plan, TrainingSpec
    from shardwright.specs.model import ModelSpec


def compare(
    context: typer.Context,
    model: ModelArgument,
    cluster: ClusterOption,
    seq_len: SeqLenOption,
    global_batch: GlobalBatchOption,
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
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            help="Name a strategy, best (the planner's choice) or best-without-cp and the like; repeat for several. Default: all, and best."
        ),
    ] = None,
    plan: Annotated[
        list[Path] | None,
        typer.Option(
            help="Name a plan file of the same model, cluster and batch, or a Megatron-LM script, a DeepSpeed JSON, a torchtitan TOML or another file that 'import' reads; repeat for several."
        ),
    ] = None,
    memory_reserve: MemoryReserveOption = None,
    host_memory_reserve: HostMemoryReserveOption = None,
    profile: ProfileOption = None,
    sweep: Annotated[
        str | None,
        typer.Option(
            help="Compare over several values: gpus=64,128,256 (gpus-weak lets the batch grow in proportion), global-batch=..., seq-len=... or device=h100-sxm,a100-80g."
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write an HTML page of the comparison here, and CSV and JSON beside it.")
    ] = None,
    mtbf_device_hours: MtbfDeviceOption = None,
    mtbf_node_hours: MtbfNodeOption = None,
    checkpoint_seconds: CheckpointSecondsOption = None,
    restart_seconds: RestartSecondsOption = None,
    checkpoint_every: CheckpointEveryOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare named strategies, plan files and the planner's choice for one job."""
    from shardwright.base import InfeasibleError, read_count
    from shardwright.comparison import BEST, Setting, read_sweep, settings_of, strategies_for
    from shardwright.comparison import sweep as sweep_ways
    from shardwright.jobs import read_may_choose, searches_of

    beside = [report.with_suffix(".csv"), report.with_suffix(".json")] if report else []
    refuse_existing(report, *beside, force=force, inputs=[*(plan or []), *([profile] if profile else [])])
    reliability = read_reliability(
        mtbf_device_hours=mtbf_device_hours,
        mtbf_node_hours=mtbf_node_hours,
        checkpoint_seconds=checkpoint_seconds,
        restart_seconds=restart_seconds,
        checkpoint_every=checkpoint_every,
    )
    model_spec, cluster_spec = (
        read_model(model),
        read_cluster(cluster, profile, memory_reserve, host_memory_reserve, safe=True),
    )
    closed, may_choose = read_may_choose(context.params)
    training = read_training(closed, model_spec, cluster_spec)
    note_what_profile_lacks(model_spec, cluster_spec, training)
    names, searches = searches_of(strategy or [*strategies_for(model_spec), BEST], context.params)
    settings = [Setting(cluster_spec.devices, cluster_spec, training)]
    name, values = read_sweep(sweep, read_count) if sweep else ("gpus", ())
    if values:
        reserves = (profile, memory_reserve, host_memory_reserve)
        settings = settings_of(
            name, values, cluster_spec, training, lambda short: read_cluster(short, *reserves, safe=True)
        )
    swept = sweep_ways(
        model_spec,
        name,
        settings,
        strategies=names,
        plans=_plans(plan or [], model_spec, cluster_spec, training, _left_open(may_choose)),
        searches=searches,
    )
    if report:
        from shardwright.reports.pages import ComparisonPage, write_comparison

        write_comparison(report, ComparisonPage(model=model_spec, cluster=cluster_spec, training=training, sweep=swept))
    if values:
        _tell_sweep(swept, as_json)
        return
    found = swept.points[0].comparison
    left = _goodputs(found, cluster_spec, reliability) if reliability else {}
    if as_json:
        failures = {"goodput": {name: one.model_dump(mode="json") for name, one in left.items()}} if left else {}
        print_json({**found.to_json(), **failures})
    else:
        from shardwright.reports.plan import comparison_table, goodput_table

        console().print(comparison_table(found))
        if left:
            console().print(goodput_table(left))
    if found.fastest is None:
        raise InfeasibleError(f"none of these ways to train {model_spec.name} fits {cluster_spec.name}")


def _tell_sweep(swept: "Sweep", as_json: bool) -> None:
    """Print a sweep.

    Raises:
        InfeasibleError: nothing fits at any of its settings.
    """
    from shardwright.base import InfeasibleError
    from shardwright.reports.plan import sweep_table

    if as_json:
        print_json(swept.to_json())
    else:
        console().print(sweep_table(swept))
    if all(point.comparison.fastest is None for point in swept.points):
        raise InfeasibleError("none of these ways fits at any of these settings")


def _goodputs(found: "Comparison", cluster: "ClusterSpec", reliability: "Reliability") -> "dict[str, Goodput]":
    """Goodput of each plan that fits, by name."""
    from shardwright.costmodel import goodput

    return {
        row.name: goodput(row.estimate, row.cluster or cluster, reliability)
        for row in found.rows
        if row.estimate is not None and row.reason is None
    }


def _plans(
    paths: list[Path], model: "ModelSpec", cluster: "ClusterSpec", training: "TrainingSpec", unstated: tuple[str, ...]
) -> "dict[str, Plan | Searched]":
    """The plans in files, by file name; by path where two files share a name. What is `unstated` is as each file has it.

    Raises:
        SpecError: a file is neither a plan file nor one of another framework, or is for another model or training.
    """
    from shardwright.base import SpecError
    from shardwright.comparison import Searched

    plans: dict[str, Plan | Searched] = {}
    for path in paths:
        plan_file = _plan_or_setup(path, model, cluster, training)
        if plan_file.model_config_json != model.config:
            raise SpecError(f"{path}: is a plan for {plan_file.model_name}, not for {model.name}")
        as_planned = {name: getattr(plan_file.training, name) for name in unstated}
        own = training.model_copy(update=as_planned)
        _check_same_training(path, plan_file.training, own)
        # plan.json of two folders: a file's name alone would lose one
        name = path.name if [other.name for other in paths].count(path.name) == 1 else str(path)
        plans[name] = Searched(plan_file.plan, training=own)
    return plans


def _left_open(may_choose: "OpenChoices") -> tuple[str, ...]:
    """What of a training spec nobody stated, or left to the planner."""
    opened = [name for name in ("loss_chunks", "recompute_modules") if getattr(may_choose, name)]
    return tuple(dict.fromkeys((*may_choose.unstated, *opened)))


def _plan_or_setup(path: Path, model: "ModelSpec", cluster: "ClusterSpec", training: "TrainingSpec") -> "PlanFile":
    """Read a plan file, or another framework's file with the job of the comparison.

    Raises:
        SpecError: see `_plans`.
    """
    from shardwright.base import read_text
    from shardwright.costmodel import phase_of
    from shardwright.exports import Job, import_plan, is_setup, target_of

    text = read_text(phase_of(path)[0])
    if not is_setup(text, path):
        return read_plan(path)[0]
    known = {"seq_len": training.seq_len, "global_batch": training.global_batch}
    return import_plan(path, text, target_of(text, path), Job(model, cluster, known), stack=None).plan_file


def _check_same_training(path: Path, planned: "TrainingSpec", training: "TrainingSpec") -> None:
    """Check that a plan was made for the training of the comparison, for which it is estimated.

    Raises:
        SpecError: an option differs; names the first.
    """
    from shardwright.base import SpecError

    wanted = _options_of(training)
    for option, theirs in _options_of(planned).items():
        ours = wanted[option]
        if theirs != ours:
            value = "" if theirs is True else f" {theirs}"
            mend = f"give {option}{value}" if theirs else f"leave {option} out"
            planned_for, compared_for = (_in_words(value) for value in (theirs, ours))
            raise SpecError(
                f"{path}: was planned for {option} {planned_for}, this comparison is for {compared_for}; {mend}"
            )


def _in_words(value: str | float | None) -> str:
    """An option's value; a flag is on, or off as what is left out."""
    return "on" if value is True else str(value or "none")


def _options_of(training: "TrainingSpec") -> dict[str, str | float | None]:
    """The command line's options for this training."""
    return {
        "--stack": training.stack,
        "--seq-len": training.seq_len,
        "--global-batch": training.global_batch,
        "--precision": training.precision.compute,
        "--linear-precision": training.precision.linear,
        "--optimizer": str(training.method),
        "--attention": training.attention,
        "--fp8-attention": training.fp8_attention,
        "--loss-chunks": training.loss_chunks,
        "--overlap-dispatch": training.overlaps_dispatch,
        "--global-balance": training.global_balance,
        "--dispatch-pieces": training.dispatch_pieces,
        "--tokens-per-centroid": training.tokens_per_centroid,
        "--expert-imbalance": training.expert_imbalance,
        "--hot-experts": training.hot_experts,
        "--mlp-tiles": training.mlp_tiles,
        "--sequence-chunks": training.sequence_chunks,
        "--mtp-layers": training.mtp_layers,
        "--activation-offload-layers": training.activation_offload_layers,
        "--high-precision-layers": training.high_precision_layers,
        "--recompute-modules": "+".join(training.recompute_modules),
        "--cuda-graphs": training.cuda_graphs,
        "--trainable": str(training.trainable),
        "--lengths": training.lengths.name if training.lengths else "",
        "--packing": training.packing if training.lengths else "",
    }
