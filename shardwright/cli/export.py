"""`export-weights` and `export-adapters` write what a run trained, for transformers and PEFT."""

from pathlib import Path
from typing import Annotated

import typer

from .options import JsonOption, needs_torch, print_json

RunFolderArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Name the folder that run --out wrote.")]
StepOption = Annotated[int | None, typer.Option(help="Take the checkpoint after this step. Default: the newest.")]


def export_weights(
    run_folder: RunFolderArgument,
    to: Annotated[Path, typer.Option(help="Write config, safetensors and tokenizer into this new folder.")],
    dtype: Annotated[str, typer.Option(help="Choose the type of the weights: fp32, bf16 or fp16.")] = "fp32",
    step: StepOption = None,
    max_shard_size: Annotated[
        str, typer.Option(help="Set the largest size of a file, 5GB or 500MB. So much memory is used.")
    ] = "5GB",
    merge: Annotated[
        bool,
        typer.Option(
            "--merge", help="Write the mean of replicas that hold weights of their own (islands, local steps)."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the weights of a checkpoint of any plan as a folder that transformers' from_pretrained loads."""
    try:
        from shardwright.executor.export import ExportOptions
        from shardwright.executor.export import export_weights as export
    except ModuleNotFoundError as missing:
        raise needs_torch("an export", missing) from None
    values = {"to": to, "dtype": dtype, "step": step, "max_shard_size": max_shard_size, "merge": merge}
    options = ExportOptions.parse(values, source="export options")
    written = export(run_folder, options, progress=lambda line: typer.echo(line, err=as_json))
    if as_json:
        print_json({"folder": str(written), "files": sorted(path.name for path in written.iterdir())})


def export_adapters(
    run_folder: RunFolderArgument,
    to: Annotated[
        Path, typer.Option(help="Write adapter_config.json and adapter_model.safetensors into this new folder.")
    ],
    step: StepOption = None,
    base_model: Annotated[
        str | None,
        typer.Option(
            help="Name the model beside which they were trained in the configuration: a folder, or a name on the Hub."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the adapters of a checkpoint of any plan as a folder that PEFT's PeftModel.from_pretrained loads."""
    try:
        from shardwright.executor.export import export_adapters as export
    except ModuleNotFoundError as missing:
        raise needs_torch("an export", missing) from None
    checkpoint = export(run_folder, to, step=step, base_model=base_model)
    if as_json:
        print_json(
            {"folder": str(to), "checkpoint": str(checkpoint), "files": sorted(path.name for path in to.iterdir())}
        )
    else:
        typer.echo(f"wrote the adapters of {checkpoint} to {to}")
