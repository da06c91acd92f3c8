"""`export-adapters` writes the adapters of a run in PEFT's format."""

from pathlib import Path
from typing import Annotated

import typer

from .options import JsonOption, print_json


def export_adapters(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Name the folder that run --out wrote.")],
    to: Annotated[
        Path, typer.Option(help="Write adapter_config.json and adapter_model.safetensors into this new folder.")
    ],
    step: Annotated[int | None, typer.Option(help="Take the checkpoint after this step. Default: the newest.")] = None,
    base_model: Annotated[
        str | None,
        typer.Option(
            help="Name the model beside which they were trained in the configuration: a folder, or a name on the Hub."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the adapters of a checkpoint of any plan as a folder that PEFT's PeftModel.from_pretrained loads."""
    from shardwright.base import SpecError

    try:
        from shardwright.executor.export import export_adapters as export
    except ModuleNotFoundError as missing:
        raise SpecError(
            f"an export needs {missing.name}, which is not installed: pip install 'shardwright[run]'"
        ) from None
    checkpoint = export(run_folder, to, step=step, base_model=base_model)
    if as_json:
        print_json(
            {"folder": str(to), "checkpoint": str(checkpoint), "files": sorted(path.name for path in to.iterdir())}
        )
    else:
        typer.echo(f"wrote the adapters of {checkpoint} to {to}")
