"""Slurm and Kubernetes: scripts that run a plan with this project's executor. They name the plan file, which holds the plan."""

import json
import re
import shlex
from pathlib import Path
from typing import Any, Literal

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile, estimate_plan, phase_of, read_plan_file
from shardwright.executor import check_can_run
from shardwright.executor.scripts import kubernetes_job, nodes_of, slurm_script
from shardwright.exports.choices import Found, Job, Target, choices_of
from shardwright.exports.text import read_json_text
from shardwright.specs import OWN_STACK, stack_names

from .export import Imported

Kind = Literal["slurm", "k8s"]
KINDS: tuple[Kind, ...] = ("slurm", "k8s")
SUFFIXES: dict[Kind, str] = {"slurm": ".sh", "k8s": ".yaml"}
IMAGE = "shardwright:latest"
_HEAD = 200  # a plan file says first what it is


def script_of(plan_file: PlanFile, path: Path, kind: Kind, *, name: str, image: str = IMAGE) -> str:
    """Return a script that runs the plan of the file at `path`.

    Raises:
        SpecError: the executor does not run the plan, or the cluster's nodes are not filled evenly.
    """
    check_can_run(plan_file)
    command = ["shardwright", "run", str(path)]
    if kind == "slurm":
        return slurm_script(nodes_of(plan_file), command, name=name)
    return kubernetes_job(nodes_of(plan_file), command, name=name, image=image)


def is_script(text: str) -> bool:
    """Whether a text runs a plan with this project's executor, or is a plan file itself."""
    return _named(text) is not None or '"kind": "shardwright-plan"' in text[:_HEAD]


def imported_script(text: str, path: Path) -> Imported:
    """Return the plan that a script runs: that of the file it names, beside the script or where it was written; or the plan of a
    plan file.

    Raises:
        SpecError: the file that it names is missing or not a plan file, or the executor does not run its plan.
    """
    named = _named(text) or str(path)
    places = [Path(named), path.parent / named, path.parent / Path(named).name]
    found = next((place for place in places if phase_of(place)[0].is_file()), None)
    if found is None:
        raise SpecError(f"{path}: runs the plan {named}, and there is no such file; put it beside the script")
    plan_file = read_plan_file(found)
    estimate = estimate_plan(plan_file.model(), plan_file.cluster, plan_file.training, plan_file.plan)
    return Imported(plan_file.model_copy(update={"estimate": estimate}), OWN, (), ())


def _written(plan_file: PlanFile) -> str:
    if plan_file.training.stack == OWN_STACK:
        check_can_run(plan_file)
    return json.dumps(plan_file.model_copy(update={"estimate": None}).model_dump(mode="json"), indent=1) + "\n"


def _read(text: str, source: str, job: Job) -> Found:
    return Found(choices_of(PlanFile.parse(json.loads(text), source=source)))


def _keys(text: str) -> dict[str, Any]:
    return {
        key.removeprefix("plan."): value
        for key, value in read_json_text(text, "plan").items()
        if key.startswith("plan.")
    }


OWN = Target(
    name="shardwright",
    release="this project's executor",
    suffix=".json",
    stacks=stack_names(),
    axes=frozenset({"pp", "cp", "tp", "ep"}),
    outside=frozenset(),
    writes=_written,
    reads=_read,
    keys=_keys,
)


def _named(text: str) -> str | None:
    """The plan of a command `shardwright run PLAN`, as a list of arguments in JSON or as words of a shell."""
    listed = re.search(r'"shardwright", "run", "((?:[^"\\]|\\.)+)"', text)
    if listed:
        return str(json.loads(f'"{listed[1]}"'))
    typed = re.search(r"shardwright run (.+)", text)
    try:
        return shlex.split(typed[1])[0] if typed else None
    except (ValueError, IndexError):
        return None
