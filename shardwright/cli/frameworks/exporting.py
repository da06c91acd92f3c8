"""`export` writes a plan in the form of another framework."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shardwright.cli.options import (
    ForceOption,
    JsonOption,
    PlanArgument,
    end_infeasible,
    print_json,
    read_plan,
    read_plans,
    refuse_existing,
    tell_what_lacks,
)

from .setups import step_words

if TYPE_CHECKING:
    from shardwright.exports import Export


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
    from shardwright.base import one_line
    from shardwright.executor import check_can_run
    from shardwright.executor.scripts import job_name
    from shardwright.exports import KINDS, export_plan, named_target, script_of

    refuse_existing(out, force=force, inputs=[plan])
    script = next((kind for kind in KINDS if kind == to), None)
    if script is not None:
        plan_file, *others = read_plans(plan)
        for each in others:  # a script starts a whole run in phases
            check_can_run(each)
        text = script_of(plan_file, plan, script, name=job_name(plan_file.model_name), image=image)
        _give(text, out, as_json=as_json, facts={"target": to, "text": text})
        return
    target = named_target(to, KINDS)
    plan_file, _ = read_plan(plan)
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
        typer.echo(one_line(f"note: {note}"), err=True)
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
            f"planned for stack {done.moved_from}; on {stack} this plan is predicted to take {step_words(done.before)} a step"
        )
    if done.lost:
        pairs = [f"{written} instead of {wanted}" for wanted, written in done.lost]
        change = after.step_seconds / done.before.step_seconds - 1
        notes.append(
            f"{name} ({release}) cannot express all of this plan: wrote {', '.join(pairs)}; the step is predicted to take "
            f"{step_words(after)} instead of {step_words(done.before)} ({change:+.1%})"
        )
    if done.outside:
        notes.append(f"the file does not hold {', '.join(done.outside)}: set it in the training script")
    return notes
