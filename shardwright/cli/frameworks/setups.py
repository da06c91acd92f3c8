"""The options that say which setup is read, its reading, and how it is printed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shardwright.cli.options import console, read_cluster, read_count_option, read_model, read_plan

if TYPE_CHECKING:
    from shardwright.costmodel import PlanFile
    from shardwright.exports import Imported
    from shardwright.specs import Estimate

FileArgument = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="Name a script with a Megatron-LM command line, a DeepSpeed JSON, a torchtitan TOML, an Accelerate or Megatron Bridge "
        "YAML, or a script of 'export --to slurm' or k8s.",
    ),
]
FormatOption = Annotated[
    str | None,
    typer.Option(
        "--from", help="Say what the file is: megatron, torchtitan, deepspeed, accelerate, nemo. Default: by its form."
    ),
]
LikeOption = Annotated[
    Path | None,
    typer.Option(help="Take what the file does not hold (model, cluster, sequence length, ...) from this plan file."),
]
OtherModelOption = Annotated[
    str | None, typer.Option("--model", help="Name the model: a preset, a config.json, or a folder with one.")
]
OtherClusterOption = Annotated[
    str | None, typer.Option("--cluster", help="Give the cluster that it runs on: device:count, or a TOML file.")
]
_Count = typer.Option(parser=read_count_option, metavar="COUNT", help="Set it where the file does not hold it.")
OtherSeqLenOption = Annotated[int | None, _Count]
OtherBatchOption = Annotated[int | None, _Count]
MicroOption = Annotated[int | None, typer.Option(help="Set the sequences of a microbatch where the file does not.")]
OtherStackOption = Annotated[
    str | None, typer.Option("--stack", help="Estimate for this stack, such as that of an older release.")
]


def read_setup(
    file: Path,
    kind: str | None,
    like: Path | None,
    model: str | None,
    cluster: str | None,
    given: dict[str, int | None],
    stack: str | None,
) -> "Imported":
    from shardwright.base import SpecError, read_text
    from shardwright.costmodel import phase_of
    from shardwright.exports import Job, choices_of, import_plan, imported_script, is_script, named_target, target_of

    text = read_text(phase_of(file)[0])
    if kind is None and is_script(text):
        return imported_script(text, file)
    target = named_target(kind) if kind else target_of(text, file)
    known = {name: value for name, value in given.items() if value is not None}
    if like is not None:
        beside, _ = read_plan(like)
        choices = choices_of(beside)
        known = {name: value for name, value in choices.items() if name in target.outside} | known
        job = Job(beside.model(), beside.cluster, known)
    elif cluster is None:
        raise SpecError(f"{file}: say which cluster it runs on; give --cluster, or --like and a plan file")
    else:
        job = Job(None, read_cluster(cluster, safe=True), known)
    if model is not None:
        job = job._replace(model=read_model(model))
    if like is not None and cluster is not None:
        job = job._replace(cluster=read_cluster(cluster, safe=True))
    return import_plan(file, text, target, job, stack=stack)


def lacking_notes(imported: "Imported") -> list[str]:
    stack = imported.plan_file.training.stack
    if not imported.lacks:
        return []
    keys = ", ".join(key.partition(" ")[0] for key in imported.lacks)
    return [f"stack {stack} is predicted with {keys}, which the file does not set so"]


def lacking_json(imported: "Imported") -> dict[str, Any]:
    return {"lacks": list(imported.lacks), "ignored": list(imported.ignored)}


def print_setup(plan_file: "PlanFile", imported: "Imported") -> None:
    from rich.text import Text

    from shardwright.reports.plan import plan_table

    printed, ignored = console(), len(imported.ignored)
    read = f"{plan_file.model_name} on {plan_file.cluster.name}, read as {imported.target.release}"
    printed.print(
        Text(f"{read}; {ignored} key{'s do' if ignored > 1 else ' does'} not change the cost" if ignored else read)
    )
    printed.print(
        plan_table(
            plan_file.plan,
            plan_file.estimated(),
            plan_file.training,
            model=plan_file.model(),
            cluster=plan_file.cluster,
        )
    )


def step_words(estimate: "Estimate") -> str:
    from shardwright.base import units

    return units.seconds(estimate.step_seconds)
