"""The command line: parse, call one library function, print."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    pass

EXIT_USER_ERROR, EXIT_INFEASIBLE, EXIT_INTERRUPTED = 2, 3, 130

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Plans the fastest way to train a large model on a cluster, says why, and trains with that plan on PyTorch.",
)

ModelArgument = Annotated[
    str, typer.Argument(help="A preset's name, a Hugging Face config.json, or a folder with one.")
]
PlanArgument = Annotated[Path, typer.Argument(help="A plan file, from 'shardwright plan --out'.")]
ClusterOption = Annotated[
    str,
    typer.Option(help="Device and count (h100-sxm:64), a TOML file, or local (what is here; local:N for N CPU ranks)."),
]
SeqLenOption = Annotated[int, typer.Option(help="Tokens of a sequence.")]
GlobalBatchOption = Annotated[int, typer.Option(help="Sequences of an optimizer step, over all ranks.")]
PrecisionOption = Annotated[str, typer.Option(help="Format that matmuls compute in: bf16, fp16, fp32, tf32.")]
OptimizerOption = Annotated[str, typer.Option(help="adamw or sgd.")]
AttentionOption = Annotated[str, typer.Option(help="flash (fused kernel) or unfused.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace output files that exist.")]


@app.command()
def plan(
    model: ModelArgument,
    cluster: ClusterOption,
    seq_len: SeqLenOption,
    global_batch: GlobalBatchOption,
    precision: PrecisionOption = "bf16",
    optimizer: OptimizerOption = "adamw",
    attention: AttentionOption = "flash",
    pp: Annotated[int | None, typer.Option(help="Fix the pipeline degree.")] = None,
    tp: Annotated[int | None, typer.Option(help="Fix the tensor-parallel degree.")] = None,
    dp_replicate: Annotated[int | None, typer.Option(help="Fix the degree that replicates (HSDP).")] = None,
    dp_shard: Annotated[int | None, typer.Option(help="Fix the degree that ZeRO shards over.")] = None,
    zero_stage: Annotated[int | None, typer.Option(help="Fix the ZeRO stage: 0, 1, 2 or 3.")] = None,
    micro_batch: Annotated[int | None, typer.Option(help="Fix the sequences of a microbatch.")] = None,
    schedule: Annotated[str | None, typer.Option(help="Fix the schedule: gpipe, 1f1b, interleaved-1f1b.")] = None,
    stages_per_rank: Annotated[int | None, typer.Option(help="Fix the pipeline chunks of a rank.")] = None,
    recompute: Annotated[str | None, typer.Option(help="Fix recompute for all layers: none, selective, full.")] = None,
    optimizer_offload: Annotated[
        int | None, typer.Option(help="Fix the optimizer on the host (1) or device (0).")
    ] = None,
    time_limit: Annotated[float, typer.Option(help="Seconds after which the best plan so far is taken.")] = 30.0,
    out: Annotated[Path | None, typer.Option(help="Write the plan file here.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report with the timeline here.")] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find the fastest plan that fits."""
    from shardwright.planner import Fixed, search

    _refuse_existing(out, report, force=force)
    model_spec, training = _model(model), _training(seq_len, global_batch, precision, optimizer, attention)
    cluster_spec = _cluster(cluster)
    choices = {
        "pp": pp,
        "tp": tp,
        "dp_replicate": dp_replicate,
        "dp_shard": dp_shard,
        "zero_stage": zero_stage,
        "micro_batch": micro_batch,
        "schedule": schedule,
        "stages_per_rank": stages_per_rank,
        "recompute": recompute,
        "optimizer_offload": optimizer_offload,
    }
    fixed = Fixed.parse({key: value for key, value in choices.items() if value is not None}, source="options")
    result = search(model_spec, cluster_spec, training, fixed=fixed, time_limit_seconds=time_limit)
    plan_file = _plan_file(model_spec, cluster_spec, training, result.plan)
    _finish_plan(plan_file, result, out=out, report=report, as_json=as_json)
