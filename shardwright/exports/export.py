"""Exports and imports of plans.

An export is written, read back and compared. What comes back differently is what the target cannot express, so that
writing and reading cannot drift apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile, check_plan, estimate_plan
from shardwright.exports.choices import WORKLOAD, Job, Target, assembled, canonical, choices_of, folded, in_words
from shardwright.specs import Estimate, named_stack, skips_stages


@dataclass(frozen=True)
class Export:
    """A plan in the form of a target.

    Attributes:
        text: the file.
        plan_file: the plan that the file says, on the target's stack, with its estimate.
        lost: choices that the target cannot express, as (wanted, written) in words; empty for the same plan.
        before: the estimate of the plan that was given, on the target's stack.
        axes: those beside data parallelism that it has.
        outside: choices that differ from their defaults and that the file does not hold, in words.
        moved_from: the stack that the plan was made for, where the target is another; None otherwise.
    """

    text: str
    plan_file: PlanFile
    lost: tuple[tuple[str, str], ...]
    before: Estimate
    outside: tuple[str, ...]
    moved_from: str | None


@dataclass(frozen=True)
class Imported:
    """A plan read from a target's file; `lacks` and `ignored` as in `Found`."""

    plan_file: PlanFile
    target: Target
    lacks: tuple[str, ...]
    ignored: tuple[str, ...]


def export_plan(plan_file: PlanFile, target: Target, *, closest: bool = False) -> Export:
    """Return a plan in the form of a target; with `closest` the nearest plan that it can express.

    Raises:
        SpecError: the target cannot express the plan, with every choice that it lacks by name, or even its nearest plan does not go
            with the model, the batch or the cluster.
    """
    if plan_file.cluster.is_mixed:
        raise SpecError(
            f"{target.name} cannot express a plan on the mixed cluster {plan_file.cluster.name}; plan for one group alone"
        )
    if skips_stages(plan_file.plan.schedule):
        raise SpecError(
            f"{target.name} lets every microbatch pass every stage, and the plan's leave some out ({plan_file.plan.schedule}); plan without "
            "--allow-approximate skippipe"
        )
    if plan_file.plan.sync.approximate:
        raise SpecError(
            f"{target.name} reduces gradients exactly, and the plan's replicas agree approximately ({plan_file.plan.sync}); plan with "
            "--sync exact"
        )
    if plan_file.training.approximate:
        raise SpecError(
            f"{target.name} sends every token to its experts, and the plan sends means of {plan_file.training.tokens_per_centroid}; plan with "
            "--tokens-per-centroid 1"
        )
    text, back = express(plan_file, target)
    moved = _on_stack(plan_file, target, back.training.stack)
    wanted, got = choices_of(moved), choices_of(back)
    modules = choices_of(plan_file)["recompute_modules"]
    lost = tuple(
        (_words(name, wanted | {"recompute_modules": modules}), _words(name, got)) for name in _differing(wanted, got)
    )
    if (
        modules and modules != wanted["recompute_modules"] == got["recompute_modules"]
    ):  # lost on the way to another stack
        lost = (
            *lost,
            (in_words("recompute_modules", modules), in_words("recompute_modules", got["recompute_modules"])),
        )
    if lost and not closest:
        raise SpecError(
            f"{target.name} ({target.release}) cannot express {_joined([one for one, _ in lost])}; --closest writes "
            f"{_joined([other for _, other in lost])} instead"
        )
    job_of = (back.model(), back.cluster, back.training)
    try:
        check_plan(back.plan, *job_of)
        after = estimate_plan(*job_of, back.plan)
    except SpecError as error:
        raise SpecError(f"the nearest plan that {target.name} can express does not run: {error}") from None
    before = estimate_plan(moved.model(), moved.cluster, moved.training, moved.plan) if lost else after
    return Export(
        text=text,
        plan_file=back.model_copy(update={"estimate": after}),
        lost=lost,
        before=before,
        outside=tuple(_outside_words(moved, target)),
        moved_from=None if moved.training.stack == plan_file.training.stack else plan_file.training.stack,
    )


def _differing(wanted: Mapping[str, Any], got: Mapping[str, Any]) -> list[str]:
    """The choices that are not the same, without those that follow from another number of stages."""
    names = [name for name in wanted if wanted[name] != got.get(name)]
    if len(wanted["stage_layers"]) != len(got["stage_layers"]):
        return [name for name in names if name != "stage_layers"]
    return names


def express(plan_file: PlanFile, target: Target) -> tuple[str, PlanFile]:
    """Return the text of a plan in the form of a target, or of a plan near it, and the plan that the text says.

    Raises:
        SpecError: not even a plan near it can be written.
    """
    try:
        moved = _on_stack(folded(plan_file, target.axes), target)
        said = choices_of(moved)
        text = target.writes(moved)
        job = Job(plan_file.model(), plan_file.cluster, {name: said[name] for name in said if name in target.outside})
        return text, assembled(target.reads(text, target.name, job).choices, job, target.name)
    except SpecError as error:
        raise SpecError(f"{target.name} cannot express this plan or one near it: {error}") from None


def _on_stack(plan_file: PlanFile, target: Target, stack: str | None = None) -> PlanFile:
    """The canonical plan on `stack`, or on one that the target has, in the formats that this stack fixes, without modules to
    recompute that it cannot name.

    Raises:
        SpecError: the training does not go with the stack.
    """
    training = plan_file.training
    stack = stack or _stack_of(plan_file, target)
    if training.stack != stack:
        formats = dict(training.precision) | named_stack(stack).fixed_formats
        known = named_stack(stack).recompute_modules
        modules = tuple(name for name in training.recompute_modules if name in known)
        changed = dict(training) | {"stack": stack, "precision": formats, "recompute_modules": modules}
        training = type(training).parse(changed, source=f"{target.name} runs stack {stack}")
    return plan_file.model_copy(update={"plan": canonical(plan_file.plan), "training": training, "estimate": None})


def _stack_of(plan_file: PlanFile, target: Target) -> str:
    """The plan's stack where the target has it, else the target's first; of those that run its schedule, if any does.

    torchtitan, for one, runs schedules that split the backward only without torch.compile.
    """
    own = plan_file.training.stack
    stacks = [own, *target.stacks] if own in target.stacks else list(target.stacks)
    plan = plan_file.plan
    runs = [name for name in stacks if plan.mesh.pp == 1 or plan.schedule in named_stack(name).runs.schedules]
    return [*runs, *stacks][0]


def _words(name: str, choices: Mapping[str, Any]) -> str:
    return in_words(name, choices.get(name))


def _joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _outside_words(plan_file: PlanFile, target: Target) -> list[str]:
    choices, training = choices_of(plan_file), type(plan_file.training)
    words = []
    for name in sorted(target.outside - WORKLOAD - {"ranks"}):
        field = training.model_fields.get(name)
        usual = field.default if field is not None and not field.is_required() else None
        value = choices.get(name)
        if value != usual and value not in ((), None):
            words.append(in_words(name, str(value) if name == "trainable" else value))
    return words


def import_plan(path: Path, text: str, target: Target, job: Job, *, stack: str | None = None) -> Imported:
    """Return the plan that a target's file says. `stack` replaces the one that the file is estimated on.

    Raises:
        SpecError: the file says what is not understood or not modelled, by the name of the key, or the plan does not go with the
            model, the batch or the cluster.
    """
    source = str(path)
    found = target.reads(text, source, job)
    for name, value in job.given.items():
        said = found.choices.get(name)
        if said is not None and said != value and name not in target.outside:
            raise SpecError(f"{source}: says {name} {said}, not {value}; leave the option out")
    choices = {**found.choices, **({"stack": stack} if stack else {})}
    plan_file = assembled(choices, job, source)
    model = plan_file.model()
    try:
        check_plan(plan_file.plan, model, plan_file.cluster, plan_file.training)
    except SpecError as error:
        raise SpecError(f"{source}: {error}") from None
    estimate = estimate_plan(model, plan_file.cluster, plan_file.training, plan_file.plan)
    lacks = tuple(found.lacks(choices_of(plan_file)))
    return Imported(plan_file.model_copy(update={"estimate": estimate}), target, lacks, found.ignored)
