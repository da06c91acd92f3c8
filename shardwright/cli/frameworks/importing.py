"""`import` reads another framework's file as a plan."""

from pathlib import Path
from typing import Annotated

import typer

from shardwright.cli.options import (
    ForceOption,
    JsonOption,
    end_infeasible,
    print_json,
    refuse_existing,
    tell_what_lacks,
)

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
)


def import_file(
    file: FileArgument,
    out: Annotated[Path | None, typer.Option(help="Write the plan file here.")] = None,
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
    """Read another framework's command line or configuration as a plan, and predict it."""
    from shardwright.base import one_line
    from shardwright.costmodel import write_plan_file

    refuse_existing(out, force=force, inputs=[file, *([like] if like else [])])
    given = {"seq_len": seq_len, "global_batch": global_batch, "micro_batch": micro_batch}
    imported = read_setup(file, kind, like, model, cluster, given, stack)
    plan_file = imported.plan_file
    if out is not None:
        write_plan_file(out, plan_file)
    for note in lacking_notes(imported):
        typer.echo(one_line(f"note: {note}"), err=True)
    lacking = tell_what_lacks(plan_file.estimated(), plan_file.cluster)
    if as_json:
        facts = {"target": imported.target.name, "release": imported.target.release, "infeasible": lacking}
        print_json({**facts, "plan_file": plan_file.model_dump(mode="json"), **lacking_json(imported)})
    else:
        print_setup(plan_file, imported)
        if out is not None:
            typer.echo(f"wrote {out}")
    end_infeasible(lacking)
