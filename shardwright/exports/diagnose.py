"""What a present setup costs, and which changes of it that its framework runs would help most."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from shardwright.base import InfeasibleError, SpecError
from shardwright.costmodel import PlanFile, check_memory, lacking_bytes
from shardwright.exports.choices import Target, choices_of, in_words
from shardwright.planner import Fixed, search
from shardwright.specs import CHOICES

from .export import Imported, export_plan

MOST_CHANGES = 3
_SMALLEST_GAIN = 0.005
_SECONDS_EACH = 5.0
_DATA = ("dp_replicate", "dp_shard", "zero_stage")
_PIPELINE = ("schedule", "stages_per_rank", "even_stages", "vocabulary_parallel")
_GROUPS: tuple[tuple[str, ...], ...] = (
    ("recompute", "offload_activations"),
    ("micro_batch",),
    _DATA,
    ("tp", "sequence_parallel", "ep", "etp", *_DATA),
    ("pp", *_PIPELINE, *_DATA),
    _PIPELINE,
    ("cp", "context_parallel", "ulysses_degree", *_DATA),
    ("context_parallel", "ulysses_degree"),
    ("ep", "etp", "expert_dispatch"),
    ("offload_optimizer", "offload_gradients", "offload_parameters", "offload_nvme", "delayed_update"),
    ("order",),
)
"""Choices that change together, and all others stay; first the questions that people ask first."""

_TOLD = tuple(choice.name for choice in CHOICES if choice.name not in ("stages", "even_stages", "stages_per_rank"))


@dataclass(frozen=True)
class Change:
    """One change of a setup.

    Attributes:
        words: what changes, as `tp 4 instead of 8`.
        keys: what changes in the framework's own file, as `--tensor-model-parallel-size: 8 -> 4`.
        plan_file: the changed plan with its estimate.
        gain: how much more the changed plan trains in the same time: 0.25 is a quarter more.
    """

    words: tuple[str, ...]
    keys: tuple[str, ...]
    plan_file: PlanFile
    gain: float


@dataclass(frozen=True)
class Diagnosis:
    """What a setup costs and what would help.

    Attributes:
        present: the plan of the setup with its estimate.
        lacking: what the present plan lacks in memory, in words; None where it fits.
        changes: those that help most, each alone, the best first; at most three.
        best: all choices open at once; None where the present plan is the best that the framework runs.
    """

    present: PlanFile
    lacking: str | None
    changes: tuple[Change, ...]
    best: Change | None


def diagnose(imported: Imported) -> Diagnosis:
    """Return what a setup costs and the changes that help most. Each suggestion is a plan that the framework's file expresses
    and that fits; where the present plan does not fit, changes that make it fit count from its predicted step all the same.

    Raises:
        SpecError: the plan has choices that the planner does not keep, such as several ZeRO stages.
    """
    present = imported.plan_file
    kept = Fixed.of(present.plan)
    found: dict[str, Change] = {}
    for group in _GROUPS:
        change = _changed(present, imported.target, kept, group)
        if change is not None:
            found.setdefault(str(change.plan_file.plan), change)
    fits = lacking_bytes(present.estimated(), present.cluster) == 0
    changes = sorted(found.values(), key=lambda change: -change.gain)
    if fits:
        changes = [change for change in changes if change.gain > _SMALLEST_GAIN]
    best = _best(present, imported.target, changes, fits=fits)
    return Diagnosis(present, _lacking(present), tuple(changes[:MOST_CHANGES]), best)


def _lacking(present: PlanFile) -> str | None:
    try:
        check_memory(present.estimated(), present.cluster)
    except InfeasibleError as lacking:
        return str(lacking)
    return None


def _changed(present: PlanFile, target: Target, kept: Fixed, group: tuple[str, ...]) -> Change | None:
    """The best plan with the choices of a group open. Where it does not fit as the layers recompute now, that opens, too."""
    free = dict.fromkeys((*group, "stages"))
    parts = {stage.layer_count for stage in present.plan.stages}
    even = {} if "even_stages" in group or len(parts) > 1 else {"even_stages": True}
    for opened in ({}, {"recompute": None}):
        found = _searched(present, target, kept.but(**{**free, **even, **opened}))
        if found is not None:
            return found
    return None


def _best(present: PlanFile, target: Target, changes: list[Change], *, fits: bool) -> Change | None:
    """The best plan with all choices open, or the best single change, where that is better in the framework's own words."""
    opened = _searched(present, target, Fixed())
    found = max((*changes[:1], *([opened] if opened else [])), key=lambda change: change.gain, default=None)
    return found if found is not None and (found.gain > _SMALLEST_GAIN or not fits) else None


def _searched(present: PlanFile, target: Target, fixed: Fixed) -> Change | None:
    """The best plan in the framework's own words; None where none fits, or where it is the present one.

    Where the framework has only something near the best plan, each ZeRO stage is tried, because that is what frameworks tie to
    other choices.
    """
    found, is_exact = _expressed(present, target, fixed)
    if is_exact or fixed.zero_stage is not None:
        return found
    stages = present.training.software.runs.zero_stages
    others = (_expressed(present, target, fixed.but(zero_stage=stage))[0] for stage in stages)
    tried = [change for change in (found, *others) if change is not None]
    return max(tried, key=lambda change: change.gain, default=None)


def _expressed(present: PlanFile, target: Target, fixed: Fixed) -> tuple[Change | None, bool]:
    """The best plan that keeps `fixed`, as near as the framework has it, and whether that is the plan itself."""
    model, cluster, training = present.model(), present.cluster, present.training
    try:
        result = search(
            model,
            cluster,
            training,
            fixed=fixed,
            time_limit_seconds=_SECONDS_EACH,
            runners_up=0,
            explain_none="nothing",
        )
        wanted = present.model_copy(update={"plan": result.plan, "training": result.training, "estimate": None})
        done = export_plan(wanted, target, closest=True)
        check_memory(done.plan_file.estimated(), cluster)
    except SpecError:
        return None, True
    except InfeasibleError:
        return None, False
    expressed = done.plan_file
    words = tuple(_differences(choices_of(present), choices_of(expressed)))
    if not words:
        return None, not done.lost
    gain = present.estimated().step_seconds / expressed.estimated().step_seconds - 1
    keys = tuple(key_differences(present, expressed, target))
    return Change(words, keys, expressed, gain), not done.lost


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is other, as `tp 4 instead of 8`; the layers of stages only where their number stays."""
    for name in (*_TOLD, "stage_layers"):
        old, new = before.get(name), after.get(name)
        if name == "etp" and after["ep"] == 1:
            continue
        if old == new or (name == "stage_layers" and len(old or ()) != len(new or ())):
            continue
        said = in_words(name, old)
        yield f"{in_words(name, new)} instead of {said.removeprefix(f'{name} ').removeprefix('stages of ')}"


def key_differences(before: PlanFile, after: PlanFile, target: Target) -> Iterator[str]:
    """Yield what differs in the framework's own file, as `--micro-batch-size: 1 -> 2`."""
    old, new = (target.keys(target.writes(one)) for one in (before, after))
    for key in dict.fromkeys((*old, *new)):
        if old.get(key) != new.get(key):
            yield f"{key}: {_value(old, key)} -> {_value(new, key)}"


def _value(keys: Mapping[str, Any], key: str) -> str:
    if key not in keys:
        return "left out"
    value = keys[key]
    text = (
        " ".join(map(str, value))
        if isinstance(value, list) and not any(isinstance(one, list) for one in value)
        else str(value)
    )
    return text if len(text) <= 60 else f"{text[:57]}..."
