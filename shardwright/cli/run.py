"""`run` trains with a plan, or traces a step of it."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import JsonOption, PlanArgument, console, needs_torch, print_json, refuse_existing
from .phases import dry_phases
from .plans import given_ranks, print_dry_run, traced, write_json

if TYPE_CHECKING:
    from shardwright.costmodel import PlanFile
    from shardwright.reports.traces import OffSpan

_WEIGHT = re.compile(r"(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


def run(
    context: typer.Context,
    plan_path: PlanArgument,
    out: Annotated[Path, typer.Option(help="Write records, checkpoints and the measurement into this folder.")] = Path(
        "out"
    ),
    steps: Annotated[
        int | None,
        typer.Option(
            help="Set the optimizer steps in all, including those before a resume. Default: 100, or as many as --until-tokens needs."
        ),
    ] = None,
    until_tokens: Annotated[
        str | None, typer.Option(help="End with the step that reaches so many tokens (2e9, 300M).")
    ] = None,
    until_hours: Annotated[
        float | None, typer.Option(help="Save and end with the first step past so many hours of this start.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Train on these files or folders; repeat for several, with weights (web/:0.7) for a mixture. Default: the source of Python's "
            "library."
        ),
    ] = None,
    data_format: Annotated[
        str,
        typer.Option(
            help="Choose text (by --tokenizer, or bytes as tokens), chat (JSON lines, loss on answers), tokens (.bin arrays) or hf (a dataset)."
        ),
    ] = "text",
    token_dtype: Annotated[
        str | None, typer.Option(help="Set the type of .bin arrays without a sidecar: uint16 or uint32.")
    ] = None,
    data_column: Annotated[
        str | None, typer.Option(help="Name the text or token column of a Hugging Face dataset.")
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="Read text by the tokenizer in this folder. Default: that beside --init-from or --resume-from, else bytes."
        ),
    ] = None,
    learning_rate: Annotated[float, typer.Option(help="Set the peak of the schedule.")] = 3e-4,
    schedule: Annotated[
        str, typer.Option(help="Choose how the rate falls after warm-up: cosine, linear, constant or wsd.")
    ] = "cosine",
    decay_steps: Annotated[
        int | None, typer.Option(help="Set the last steps, in which wsd falls. Default: a tenth of the steps.")
    ] = None,
    min_learning_rate_fraction: Annotated[
        float, typer.Option(help="Set the rate at the last step, as a share of the peak.")
    ] = 0.1,
    warmup_steps: Annotated[
        int | None, typer.Option(help="Set the steps to the peak. Default: a tenth of the steps.")
    ] = None,
    weight_decay: Annotated[float, typer.Option(help="Set the weight decay of AdamW, on matrices only.")] = 0.1,
    betas: Annotated[tuple[float, float], typer.Option(help="Set the two decay rates of AdamW.")] = (0.9, 0.95),
    eps: Annotated[float, typer.Option(help="Set the epsilon of AdamW.")] = 1e-8,
    clip_norm: Annotated[float | None, typer.Option(help="Set the largest global gradient norm; 0 never clips.")] = 1.0,
    router_bias_rate: Annotated[
        float | None,
        typer.Option(
            help="Move the bias of routers by so much a step towards experts with few tokens (DeepSeek-V3: 0.001)."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Set the seed of initial weights and data order.")] = 0,
    checkpoint_every: Annotated[int, typer.Option(help="Set the steps between checkpoints; 0 writes none.")] = 100,
    every_minutes: Annotated[float | None, typer.Option(help="Save a checkpoint after so many minutes, too.")] = None,
    checkpoint: Annotated[
        str, typer.Option(help="Choose sync (steps wait for the disk) or async (they wait for a copy to the host).")
    ] = "sync",
    keep_checkpoints: Annotated[
        int, typer.Option("--keep", "--keep-checkpoints", help="Keep this many of the newest checkpoints.")
    ] = 2,
    eval_data: Annotated[
        list[Path] | None,
        typer.Option(help="Compute the loss on these held-back files or folders; repeat for several."),
    ] = None,
    eval_every: Annotated[int | None, typer.Option(help="Set the steps between evaluations.")] = None,
    eval_batches: Annotated[int, typer.Option(help="Set the global batches of an evaluation.")] = 8,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write event files for TensorBoard into OUT/tensorboard.")
    ] = False,
    wandb: Annotated[
        str | None,
        typer.Option(
            help="Write a run of Weights & Biases into OUT/wandb: offline (send it later by wandb sync) or online."
        ),
    ] = None,
    log_every: Annotated[int, typer.Option(help="Set the steps between progress lines.")] = 1,
    timing_warmup_steps: Annotated[int, typer.Option(help="Leave this many first steps out of the timings.")] = 3,
    resume: Annotated[
        str, typer.Option(help="Choose auto (continue the run in --out) or never (refuse a folder with a run).")
    ] = "auto",
    resume_from: Annotated[
        Path | None, typer.Option(help="Start from a checkpoint of another run, of any plan of the model.")
    ] = None,
    init_from: Annotated[
        Path | None,
        typer.Option(
            help="Start from the weights in this folder (Hugging Face's layout, safetensors). Default: drawn from the seed."
        ),
    ] = None,
    adapters_from: Annotated[
        Path | None,
        typer.Option(
            help="Start from the adapters in this folder, of PEFT's save_pretrained. Default: PEFT's initial values."
        ),
    ] = None,
    lora_alpha: Annotated[
        float | None, typer.Option(help="Set the numerator of the scale alpha / rank of adapters. Default: their rank.")
    ] = None,
    offload_folder: Annotated[
        Path | None,
        typer.Option(help="Put state that the plan keeps on drives into this folder. Default: offload, in --out."),
    ] = None,
    ranks: Annotated[
        int | None, typer.Option(help="Set how many ranks this machine offers. Default: what it has.")
    ] = None,
    compile_layers: Annotated[
        str,
        typer.Option("--compile", help="Compile each layer by torch.compile: on, off, or auto (on with GPUs)."),
    ] = "off",
    replan: Annotated[
        bool,
        typer.Option(
            "--replan",
            help="Plan anew where other ranks are there than the plan needs, and for what is left of them once some are gone.",
        ),
    ] = False,
    restarts: Annotated[int, typer.Option(help="Restart lost ranks this many times.")] = 0,
    timeout: Annotated[
        float, typer.Option(help="End a run that hangs for this many seconds, and say which rank did not arrive.")
    ] = 1800.0,
    trace: Annotated[
        Path | None,
        typer.Option(
            help="Record a step by torch.profiler, write it with the simulated one here for ui.perfetto.dev, and print the spans that are off."
        ),
    ] = None,
    dry: Annotated[
        bool,
        typer.Option(
            "--dry", help="Train nothing: trace one step of some ranks, and print it beside what the estimate charges."
        ),
    ] = False,
    dry_ranks: Annotated[
        str | None,
        typer.Option(help="Trace these ranks (0,5). Default: one for each kind of pipeline rank. With --dry."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train with a plan on this machine, and compare the measurement with the prediction."""
    from shardwright.base import SpecError
    from shardwright.costmodel import read_plan_file
    from shardwright.costmodel.phases import is_phases_file, read_phases_file
    from shardwright.executor import RunOptions

    if dry:
        _trace(plan_path, dry_ranks, {"--replan": replan, "--trace": trace is not None}, as_json=as_json)
        return
    if dry_ranks is not None:
        raise SpecError("--dry-ranks goes with --dry; add it, or leave out --dry-ranks")
    refuse_existing(trace, force=False, inputs=[plan_path])
    options = RunOptions.parse(_values(context.params), source="run options")
    phases = None
    if os.environ.get("RANK", "0") == "0":  # rank 0 speaks for all ranks of torchrun
        phases = read_phases_file(plan_path) if is_phases_file(plan_path) else None
        _ = phases or read_plan_file(plan_path)  # raises for a wrong file before torch takes seconds to start
    try:
        from shardwright.executor.run import launch
    except ModuleNotFoundError as missing:
        raise needs_torch("training", missing) from None
    from shardwright.planner.nearby import replanned

    measurement = launch(
        plan_path,
        options,
        progress=lambda line: typer.echo(line, err=as_json),
        plan_for=replanned if replan else None,
    )
    if os.environ.get("RANK", "0") != "0":  # under the user's own torchrun, one rank speaks for all
        return
    if as_json and not trace:
        print_json(measurement.model_dump(mode="json"))
        return
    plan_file = read_plan_file(options.out / "plan.json")
    off = _write_joined_trace(trace, plan_file, options.out) if trace else []
    if as_json:
        spans = [{**one.kind._asdict(), **one._asdict(), "off_seconds": one.off_seconds} for one in off]
        for span in spans:
            del span["kind"]
        print_json({**measurement.model_dump(mode="json"), "spans": spans})
        return
    from shardwright.reports.plan import measured_phases_table, measured_table
    from shardwright.reports.traces import off_table

    if phases is not None:
        console().print(measured_phases_table(phases, measurement, warmup_steps=options.timing_warmup_steps))
    console().print(measured_table(plan_file.plan, plan_file.estimated(), measurement))
    if trace:
        console().print(off_table(off))
        typer.echo(f"wrote {trace}; open it at ui.perfetto.dev")


def _write_joined_trace(path: Path, plan_file: "PlanFile", out: Path) -> "list[OffSpan]":
    """Write the simulated step and the recorded one into one trace; return the spans that are off.

    Raises:
        SpecError: the run recorded nothing, as one that was already complete; the file cannot be written.
    """
    from shardwright.base import SpecError, read_json
    from shardwright.costmodel import simulate_plan
    from shardwright.executor import TRACE_FOLDER
    from shardwright.jobs import simulated_trace
    from shardwright.reports.traces import joined_trace, off_spans

    files = sorted((out / TRACE_FOLDER).glob("pipeline-rank-*.json"))
    if not files:
        raise SpecError(f"{out}: no step was recorded, because the run was complete; give another --out")
    measured = {int(file.stem.rpartition("-")[2]): read_json(file) for file in files}
    timeline = simulate_plan(plan_file.model(), plan_file.cluster, plan_file.training, plan_file.plan)
    write_json(path, joined_trace(simulated_trace(plan_file, timeline), measured))
    return off_spans(timeline, measured)


def _values(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `RunOptions`, which have the names of the parameters but for two; 0 stands for None in some."""
    from shardwright.base import read_tokens

    renamed = {"compile_layers": "compile", "timeout": "timeout_seconds"}
    apart = ("plan_path", "trace", "dry", "dry_ranks", "as_json", "data", "steps", "until_tokens", "replan")
    values = {renamed.get(name, name): value for name, value in parameters.items() if name not in apart}
    values |= {name: values[name] or None for name in ("clip_norm", "checkpoint_every")}
    values["trace_step"] = parameters["trace"] is not None
    values |= {"eval_data": tuple(values["eval_data"] or ()), **_mixture(parameters["data"] or [])}
    if parameters["steps"] is not None:
        values["steps"] = parameters["steps"]
    if parameters["until_tokens"] is not None:
        values["until_tokens"] = round(read_tokens(parameters["until_tokens"]))
    return values


def _mixture(given: list[str]) -> dict[str, Any]:
    """Return data and their weights. What exists under the whole name, colon and all, is a path."""
    from shardwright.base import SpecError

    paths: list[Path] = []
    weights: list[float | None] = []
    for text in given:
        path, colon, weight = text.rpartition(":")
        weighted = bool(colon) and not Path(text).exists() and _WEIGHT.fullmatch(weight) is not None
        name = path if weighted else text
        if not name:
            raise SpecError(f"--data '{text}' names no file or folder; give one, as --data web/ or --data web/:0.7")
        paths.append(Path(name))
        weights.append(float(weight) if weighted else None)
    without = [text for text, weight in zip(given, weights, strict=True) if weight is None]
    if without and len(without) < len(given):
        raise SpecError(
            f"--data {without[0]} has no weight above 0, and others have one; give one each, as --data web/:0.7 --data books/:0.3, or none"
        )
    return {"data": tuple(paths), "data_weights": tuple(weight for weight in weights if weight is not None)}


_NOT_DRY = {"--replan": "traces the plan as it is", "--trace": "records no step"}


def _trace(plan_path: Path, given: str | None, others: Mapping[str, bool], *, as_json: bool) -> None:
    """Make a dry run, of every phase where there are several, and print it. `others`: options that it does not honour."""
    from shardwright.base import SpecError
    from shardwright.costmodel import read_plan_file
    from shardwright.costmodel.phases import is_phases_file

    for name, is_given in others.items():
        if is_given:
            raise SpecError(f"--dry {_NOT_DRY[name]}; leave out {name}")
    ranks = given_ranks(given)
    if is_phases_file(plan_path):
        dry_phases(plan_path, ranks, as_json=as_json)
        return
    found = traced(read_plan_file(plan_path), ranks)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        print_dry_run(found)
