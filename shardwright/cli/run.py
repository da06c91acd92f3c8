"""`run` trains with a plan."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import JsonOption, PlanArgument, console, print_json


def run(
    plan_path: PlanArgument,
    out: Annotated[Path, typer.Option(help="Folder for records, checkpoints and the measurement.")] = Path("out"),
    steps: Annotated[int, typer.Option(help="Optimizer steps in all, those before a resume included.")] = 100,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Files or folders to train on; repeat for several. Default: Python's own library source."),
    ] = None,
    data_format: Annotated[
        str, typer.Option(help="text (bytes as tokens), tokens (.bin arrays), hf (a dataset).")
    ] = "text",
    token_dtype: Annotated[str | None, typer.Option(help="Of .bin arrays without a sidecar: uint16 or uint32.")] = None,
    data_column: Annotated[
        str | None, typer.Option(help="Of a Hugging Face dataset: its text or token column.")
    ] = None,
    learning_rate: Annotated[float, typer.Option(help="Peak of the cosine schedule.")] = 3e-4,
    min_learning_rate_fraction: Annotated[float, typer.Option(help="Of the peak, at the last step.")] = 0.1,
    warmup_steps: Annotated[int | None, typer.Option(help="Steps to the peak. Default: a tenth of the steps.")] = None,
    weight_decay: Annotated[float, typer.Option(help="AdamW's, on matrices only.")] = 0.1,
    betas: Annotated[tuple[float, float], typer.Option(help="AdamW's two decay rates.")] = (0.9, 0.95),
    eps: Annotated[float, typer.Option(help="AdamW's.")] = 1e-8,
    clip_norm: Annotated[float | None, typer.Option(help="Largest global gradient norm; 0 never clips.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of initial weights and data order.")] = 0,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints; 0 writes none.")] = 100,
    keep_checkpoints: Annotated[int, typer.Option(help="How many of the newest stay.")] = 2,
    log_every: Annotated[int, typer.Option(help="Steps between progress lines.")] = 1,
    timing_warmup_steps: Annotated[int, typer.Option(help="First steps that the timings leave out.")] = 3,
    resume: Annotated[str, typer.Option(help="auto continues what is in --out; never refuses it.")] = "auto",
    resume_from: Annotated[Path | None, typer.Option(help="A checkpoint of another run, under whatever plan.")] = None,
    ranks: Annotated[int | None, typer.Option(help="Ranks that this machine offers. Default: what is here.")] = None,
    restarts: Annotated[int, typer.Option(help="How often lost ranks are started again.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Train with a plan on this machine, and lay the measurement beside the prediction."""
    from shardwright.base import SpecError
    from shardwright.costmodel import read_plan_file
    from shardwright.executor import RunOptions

    values: dict[str, Any] = {
        "out": out,
        "steps": steps,
        "data": tuple(data or ()),
        "data_format": data_format,
        "token_dtype": token_dtype,
        "data_column": data_column,
        "learning_rate": learning_rate,
        "min_learning_rate_fraction": min_learning_rate_fraction,
        "warmup_steps": warmup_steps,
        "weight_decay": weight_decay,
        "betas": betas,
        "eps": eps,
        "clip_norm": clip_norm or None,
        "seed": seed,
        "checkpoint_every": checkpoint_every or None,
        "keep_checkpoints": keep_checkpoints,
        "log_every": log_every,
        "timing_warmup_steps": timing_warmup_steps,
        "resume": resume,
        "resume_from": resume_from,
        "ranks": ranks,
        "restarts": restarts,
    }
    options = RunOptions.parse(values, source="run options")
    if os.environ.get("RANK", "0") == "0":  # of torchrun's ranks the first speaks for all
        read_plan_file(plan_path)  # what is wrong with it is said before torch takes its seconds to start
    try:
        from shardwright.executor.run import launch
    except ModuleNotFoundError as missing:
        raise SpecError(f"training needs {missing.name}, which is not here: pip install 'shardwright[run]'") from None
    measurement = launch(plan_path, options, progress=lambda line: typer.echo(line, err=as_json))
    if os.environ.get("RANK", "0") != "0":  # under a torchrun of the user's own, one rank speaks for all
        return
    if as_json:
        print_json(measurement.model_dump(mode="json"))
        return
    from shardwright.reports.plan import measured_table

    plan_file = read_plan_file(plan_path)
    console().print(measured_table(plan_file.plan, plan_file.estimated(), measurement))
