"""`compare` lays plans and named strategies side by side."""

from pathlib import Path
from typing import Annotated

import typer

from shardwright.costmodel.errors import SpecError

from .options import (
    AttentionOption,
    ClusterOption,
    ForceOption,
    GlobalBatchOption,
    JsonOption,
    ModelArgument,
    OptimizerOption,
    PrecisionOption,
    SeqLenOption,
    print_json,
    read_cluster,
    read_model,
    read_plan,
    read_training,
    refuse_existing,
)


def compare(
    model: ModelArgument,
    cluster: ClusterOption,
    seq_len: SeqLenOption,
    global_batch: GlobalBatchOption,
    precision: PrecisionOption = "bf16",
    optimizer: OptimizerOption = "adamw",
    attention: AttentionOption = "flash",
    strategy: Annotated[
        list[str] | None,
        typer.Option(help="A named strategy; repeat for several. Default: all, and best (the planner's choice)."),
    ] = None,
    plan: Annotated[
        list[Path] | None, typer.Option(help="A plan file of the same model, cluster and batch; repeat for several.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report of the fastest here.")] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare named strategies, plan files and the planner's choice for one job."""
    from shardwright.benchmarks import compare as comparison
    from shardwright.planner import search

    refuse_existing(report, force=force)
    training = read_training(seq_len, global_batch, precision, optimizer, attention)
    model_spec, cluster_spec = read_model(model), read_cluster(cluster)
    names = list(strategy or (*comparison.STRATEGIES, comparison.BEST))
    plans = {}
    for path in plan or []:
        plan_file, _ = read_plan(path)
        if plan_file.model_config_json != model_spec.config:
            raise SpecError(f"{path}: is a plan for {plan_file.model_name}, not for {model_spec.name}")
        plans[path.name] = plan_file.plan
    found = comparison.compare(
        model_spec,
        cluster_spec,
        training,
        strategies=[name for name in names if name != comparison.BEST],
        plans=plans,
        search=(lambda *job: search(*job).plan) if comparison.BEST in names else None,
    )
    if report:
        _write_report(report, found, model_spec, cluster_spec, training)
    if as_json:
        print_json(found.to_json())
        return
    from rich.console import Console

    from shardwright.benchmarks.plan_tables import comparison_table

    Console().print(comparison_table(found))
