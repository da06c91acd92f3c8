"""`export-weights` writes the weights of a run in Hugging Face's layout."""

from pathlib import Path
from typing import Annotated

import typer

from .options import JsonOption, print_json


def export_weights(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Name the folder that run --out wrote.")],
    to: Annotated[Path, typer.Option(help="Write config, safetensors and tokenizer into this new folder.")],
    dtype: Annotated[str, typer.Option(help="Choose the type of the weights: fp32, bf16 or fp16.")] = "fp32",
    step: Annotated[int | None, typer.Option(help="Take the checkpoint after this step. Default: the newest.")] = None,
    max_shard_size: Annotated[
        str, typer.Option(help="Set the largest size of a file, 5GB or 500MB. So much memory is used.")
    ] = "5GB",
    as_json: JsonOption = False,
) -> None:
    """Write the weights of a checkpoint of any plan as a folder that transformers' from_pretrained loads."""
    from shardwright.base import SpecError

    try:
        from shardwright.executor.export import ExportOptions
        from shardwright.executor.export import export_weights as export
    except ModuleNotFoundError as missing:
        raise SpecError(
            f"an export needs {missing.name}, which is not installed: pip install 'shardwright[run]'"
        ) from None
    values = {"to": to, "dtype": dtype, "step": step, "max_shard_size": max_shard_size}
    options = ExportOptions.parse(values, source="export options")
    written = export(run_folder, options, progress=lambda line: typer.echo(line, err=as_json))
    if as_json:
        print_json({"folder": str(written), "files": sorted(path.name for path in written.iterdir())})
