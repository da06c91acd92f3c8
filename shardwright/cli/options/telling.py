"""What a command prints, and why it does not start."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from shardwright.base import SpecError
    from shardwright.specs import ClusterSpec, Estimate

EXIT_INFEASIBLE = 3


def needs_torch(what: str, missing: ModuleNotFoundError) -> "SpecError":
    """Return the error for a command that needs an optional package."""
    from shardwright.base import SpecError, install

    return SpecError(f"{what} needs {missing.name}, which is not installed: {install('run')}")


def tell_what_lacks(estimate: "Estimate", cluster: "ClusterSpec", name: str = "") -> str | None:
    """One line on stderr where a plan does not fit: by how much, after `name`, if it has one. The command prints what it found, and ends with
    `end_infeasible`; the same line is the result, None where the plan fits."""
    from shardwright.base import InfeasibleError
    from shardwright.costmodel import check_memory

    try:
        check_memory(estimate, cluster)
    except InfeasibleError as lacking:
        typer.echo(f"error: {name}this plan does not fit: {lacking}", err=True)
        return str(lacking)
    return None


def end_infeasible(lacking: str | None) -> None:
    """End with the exit code of an infeasible plan, where `tell_what_lacks` told of one."""
    if lacking:
        raise SystemExit(EXIT_INFEASIBLE)


def refuse_existing(*outputs: Path | None, force: bool, inputs: Sequence[Path] = ()) -> None:
    """Raise before any work if an output file exists without `--force`, or if its folder does not exist.

    Even with `--force` an output never replaces an input, another output, or what is no plain file (such as a device).

    Raises:
        SpecError: naming the file.
    """
    from shardwright.base import SpecError
    from shardwright.costmodel import phase_of

    taken = {phase_of(path)[0].resolve(): "is read by this command" for path in inputs}
    for path in outputs:
        if path is None:
            continue
        if path.resolve() in taken:
            raise SpecError(f"{path}: {taken[path.resolve()]}; give another name")
        taken[path.resolve()] = "is given for two outputs"
        if not path.parent.is_dir():
            raise SpecError(f"{path}: the folder {path.parent} does not exist; make it first")
        if path.is_dir():
            raise SpecError(f"{path}: is a folder; name a file")
        if path.exists() and not path.is_file():
            raise SpecError(f"{path}: is a device or a pipe; name a file")
        if path.exists() and not force:
            raise SpecError(f"{path}: exists; give --force to replace it, or another name")


def print_json(data: object) -> None:
    """Print plain JSON on stdout, nothing else. A number that is not finite is null: it could not be computed."""
    typer.echo(json.dumps(_finite(data), indent=1, allow_nan=False))


def _finite(data: object) -> object:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    return [_finite(value) for value in data] if isinstance(data, (list, tuple)) else data


def console() -> "Console":
    """The console for tables: as wide as the terminal, or 130 columns where there is none."""
    from rich.console import Console

    found = Console()
    return found if found.is_terminal else Console(width=130)
