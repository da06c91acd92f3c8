"""`diagnose` says what a present setup costs and what would help most."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shardwright.cli.options import ForceOption, JsonOption, print_json, refuse_existing

from .setups import (
    FileArgument,
    FormatOption,
    LikeOption,
    MicroOption,
    OtherBatchOption,
    OtherClusterOption,
    OtherModelOption,
    OtherSeqLenOption,
    OtherStackOption,
    lacking_json,
    lacking_notes,
    print_setup,
    read_setup,
    step_words,
)

if TYPE_CHECKING:
    from shardwright.exports import Change, Diagnosis, Imported


def diagnose(
    file: FileArgument,
    out: Annotated[Path | None, typer.Option(help="Write the best plan file here.")] = None,
    kind: FormatOption = None,
    like: LikeOption = None,
    model: OtherModelOption = None,
    cluster: OtherClusterOption = None,
    seq_len: OtherSeqLenOption = None,
    global_batch: OtherBatchOption = None,
    micro_batch: MicroOption = None,
    stack: OtherStackOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say what a present setup costs, and which three changes that its framework runs would help most."""
    from shardwright.base import one_line
    from shardwright.costmodel import write_plan_file
    from shardwright.exports import diagnose as find_changes

    refuse_existing(out, force=force, inputs=[file, *([like] if like else [])])
    given = {"seq_len": seq_len, "global_batch": global_batch, "micro_batch": micro_batch}
    imported = read_setup(file, kind, like, model, cluster, given, stack)
    for note in lacking_notes(imported):
        typer.echo(one_line(f"note: {note}"), err=True)
    found = find_changes(imported)
    if out is not None:
        write_plan_file(out, (found.best.plan_file if found.best else found.present))
    if as_json:
        print_json(_diagnosis_json(found, imported))
    else:
        print_setup(found.present, imported)
        _print_diagnosis(found, imported)
        if out is not None:
            typer.echo(f"wrote {out}")


def _print_diagnosis(found: "Diagnosis", imported: "Imported") -> None:
    stack = found.present.training.stack
    if found.lacking:
        typer.echo(f"This setup does not fit: {found.lacking}.")
    if not found.changes:
        better = "fit" if found.lacking else "faster"
        typer.echo(f"No single change that {imported.target.name} runs makes this setup {better}.")
    for number, change in enumerate(found.changes, start=1):
        _print_change(f"{number}. {', '.join(change.words)}", change)
    if found.best is not None:
        _print_change(
            f"Best of all that {imported.target.name} runs on {stack}: {', '.join(found.best.words)}", found.best
        )


def _print_change(title: str, change: "Change") -> None:
    estimate = change.plan_file.estimated()
    typer.echo(f"{title}: {step_words(estimate)} a step, {change.gain:+.1%} tokens/s")
    for key in change.keys:
        typer.echo(f"     {key}")


def _diagnosis_json(found: "Diagnosis", imported: "Imported") -> dict[str, Any]:
    def told(change: "Change") -> dict[str, Any]:
        return {
            "words": list(change.words),
            "keys": list(change.keys),
            "gain": change.gain,
            "step_seconds": change.plan_file.estimated().step_seconds,
            "plan_file": change.plan_file.model_dump(mode="json"),
        }

    return {
        "target": imported.target.name,
        "release": imported.target.release,
        "infeasible": found.lacking,
        "present": found.present.model_dump(mode="json"),
        "changes": [told(change) for change in found.changes],
        "best": told(found.best) if found.best else None,
        **lacking_json(imported),
    }
