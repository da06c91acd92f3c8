"""`export`, `import` and `diagnose`: plans in the form of other frameworks, and what a present setup would gain."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .launch import job_name
from .options import (
    ForceOption,
    JsonOption,
    PlanArgument,
    console,
    end_infeasible,
    print_json,
    read_cluster,
    read_count_option,
    read_model,
    read_plan,
    refuse_existing,
    tell_what_lacks,
)

if TYPE_CHECKING:
    from shardwright.costmodel import PlanFile
    from shardwright.exports import Change, Diagnosis, Export, Imported
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


def export(
    plan: PlanArgument,
    to: Annotated[
        str, typer.Option(help="Choose the form: megatron, torchtitan, deepspeed, accelerate, nemo, slurm or k8s.")
    ],
    closest: Annotated[
        bool, typer.Option("--closest", help="Write the nearest plan where the framework cannot express this one.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write the file here. Default: print it.")] = None,
    image: Annotated[
        str, typer.Option(help="Name the container image that has shardwright[run], for k8s.")
    ] = "shardwright:latest",
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a plan in the form of another framework, or as a script that runs it with this project's executor."""
    from shardwright.exports import KINDS, export_plan, named_target, script_of

    refuse_existing(out, force=force, inputs=[plan])
    plan_file, _ = read_plan(plan)
    script = next((kind for kind in KINDS if kind == to), None)
    if script is not None:
        text = script_of(plan_file, plan, script, name=job_name(plan_file.model_name), image=image)
        _give(text, out, as_json=as_json, facts={"target": to, "text": text})
        return
    target = named_target(to, KINDS)
    done = export_plan(plan_file, target, closest=closest)
    facts = {
        "target": target.name,
        "release": target.release,
        "text": done.text,
        "lost": [{"wanted": wanted, "written": written} for wanted, written in done.lost],
        "outside": list(done.outside),
        "stack": done.plan_file.training.stack,
        "step_seconds": done.before.step_seconds,
        "closest_step_seconds": done.plan_file.estimated().step_seconds,
        "plan_file": done.plan_file.model_dump(mode="json"),
    }
    for note in _notes(done, target.name, target.release):
        typer.echo(f"note: {note}", err=True)
    lacking = tell_what_lacks(done.plan_file.estimated(), done.plan_file.cluster)
    _give(done.text, out, as_json=as_json, facts={**facts, "infeasible": lacking})
    end_infeasible(lacking)


def _give(text: str, out: Path | None, *, as_json: bool, facts: dict[str, Any]) -> None:
    from shardwright.base import write_whole

    if out is not None:
        write_whole(out, text)
    if as_json:
        print_json(facts)
    elif out is not None:
        typer.echo(f"wrote {out}")
    else:
        typer.echo(text, nl=False)


def _notes(done: "Export", name: str, release: str) -> list[str]:
    notes = []
    stack, after = done.plan_file.training.stack, done.plan_file.estimated()
    if done.moved_from is not None:
        notes.append(
            f"planned for stack {done.moved_from}; on {stack} this plan is predicted to take {_step(done.before)} a step"
        )
    if done.lost:
        pairs = [f"{written} instead of {wanted}" for wanted, written in done.lost]
        change = after.step_seconds / done.before.step_seconds - 1
        notes.append(
            f"{name} ({release}) cannot express all of this plan: wrote {', '.join(pairs)}; the step is predicted to take "
            f"{_step(after)} instead of {_step(done.before)} ({change:+.1%})"
        )
    if done.outside:
        notes.append(f"the file does not hold {', '.join(done.outside)}: set it in the training script")
    return notes


def _step(estimate: "Estimate") -> str:
    from shardwright.base import units

    return units.seconds(estimate.step_seconds)


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
    from shardwright.costmodel import write_plan_file

    refuse_existing(out, force=force, inputs=[file, *([like] if like else [])])
    given = {"seq_len": seq_len, "global_batch": global_batch, "micro_batch": micro_batch}
    imported = _imported(file, kind, like, model, cluster, given, stack)
    plan_file = imported.plan_file
    if out is not None:
        write_plan_file(out, plan_file)
    for note in _told(imported):
        typer.echo(f"note: {note}", err=True)
    lacking = tell_what_lacks(plan_file.estimated(), plan_file.cluster)
    if as_json:
        facts = {"target": imported.target.name, "release": imported.target.release, "infeasible": lacking}
        print_json({**facts, "plan_file": plan_file.model_dump(mode="json"), **_told_json(imported)})
    else:
        _print_setup(plan_file, imported)
        if out is not None:
            typer.echo(f"wrote {out}")
    end_infeasible(lacking)


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
    from shardwright.costmodel import write_plan_file
    from shardwright.exports import diagnose as find_changes

    refuse_existing(out, force=force, inputs=[file, *([like] if like else [])])
    given = {"seq_len": seq_len, "global_batch": global_batch, "micro_batch": micro_batch}
    imported = _imported(file, kind, like, model, cluster, given, stack)
    for note in _told(imported):
        typer.echo(f"note: {note}", err=True)
    found = find_changes(imported)
    if out is not None:
        write_plan_file(out, (found.best.plan_file if found.best else found.present))
    if as_json:
        print_json(_diagnosis_json(found, imported))
    else:
        _print_setup(found.present, imported)
        _print_diagnosis(found, imported)
        if out is not None:
            typer.echo(f"wrote {out}")


def _imported(
    file: Path,
    kind: str | None,
    like: Path | None,
    model: str | None,
    cluster: str | None,
    given: dict[str, int | None],
    stack: str | None,
) -> "Imported":
    from shardwright.base import SpecError, read_text
    from shardwright.exports import Job, choices_of, import_plan, imported_script, is_script, named_target, target_of

    text = read_text(file)
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


def _told(imported: "Imported") -> list[str]:
    stack = imported.plan_file.training.stack
    if not imported.lacks:
        return []
    return [f"stack {stack} is predicted with what the file lacks: {', '.join(imported.lacks)}"]


def _told_json(imported: "Imported") -> dict[str, Any]:
    return {"lacks": list(imported.lacks), "ignored": list(imported.ignored)}


def _print_setup(plan_file: "PlanFile", imported: "Imported") -> None:
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
    typer.echo(f"{title}: {_step(estimate)} a step, {change.gain:+.1%} tokens/s")
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
        **_told_json(imported),
    }
