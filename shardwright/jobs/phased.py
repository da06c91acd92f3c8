"""A run in phases as a user states it: a TOML file of what changes from phase to phase, read and planned."""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, field_validator

from shardwright.base import SpecError, check_values, read_count, read_text
from shardwright.catalog.huggingface import load_model
from shardwright.costmodel import PlanFile, check_plan, estimate_plan
from shardwright.costmodel.phases import Phase, PhasesFile, Switch, Switching, why_not_grow
from shardwright.planner import TOLERANCE
from shardwright.planner.phases import PhasesResult, PlannedPhase, plan_phases, planned_again
from shardwright.planner.space import asked
from shardwright.specs import ClusterSpec, PositiveInt, Spec, TrainingSpec
from shardwright.specs.model import ModelSpec

from .reading import read_may_choose, read_training

_ALONE = ("allow_precision", "allow_approximate")
"""Options that may choose another optimizer or format in each phase."""


class GivenPhase(Spec):
    """`steps` optimizer steps, and what of the job differs from the command's options in them. `model`: one that has grown from that of the
    phase before by layers; later phases keep it."""

    steps: PositiveInt
    seq_len: PositiveInt | None = None
    global_batch: PositiveInt | None = None
    lengths: str | None = None
    packing: Literal["packed", "padded"] | None = None
    model: str | None = None

    @field_validator("seq_len", "global_batch", mode="before")
    @classmethod
    def _counted(cls, given: object) -> object:
        """Read `32k` too."""
        return read_count(given) if isinstance(given, str) else given


class GivenPhases(Spec):
    """The file of `plan --phases`: what changes from phase to phase, and what a change of plans takes."""

    phases: tuple[GivenPhase, ...] = Field(min_length=1)
    switching: Switching = Switching()


class PlannedPhases(NamedTuple):
    """The phases with their plans, as found and as a file."""

    result: PhasesResult
    file: PhasesFile


def read_given_phases(path: Path) -> GivenPhases:
    """Read the TOML file of a run in phases.

    Raises:
        SpecError: one line: it cannot be read, is no TOML, or a key or value is not allowed.
    """
    text = read_text(path)
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{path}: is not valid TOML ({error or 'nested too deep'})") from None
    check_values(data, str(path))
    return GivenPhases.parse(data, source=str(path))


def phases_of(file: PhasesFile) -> tuple[PlannedPhase, ...]:
    """Return the phases of a file, estimated by the cost model of this version; what the file says may be of another one.

    Raises:
        SpecError: a plan does not divide the model, the batch or the cluster; where checkpoints lie is not known. Both name the phase.
    """
    phases = []
    for number, phase in enumerate(file.phases, start=1):
        written = phase.plan_file
        job = written.model(), written.cluster, written.training, written.plan
        try:
            check_plan(written.plan, *job[:3])
            estimate = estimate_plan(*job)
        except SpecError as error:
            raise SpecError(f"phase {number}: {error}") from None
        phases.append(PlannedPhase(phase.steps, job[0], written.training, written.plan, estimate, Switch("none", 0.0)))
    return planned_again(file.phases[0].plan_file.cluster, phases, file.switching)


def plan_phases_job(
    model: ModelSpec,
    cluster: ClusterSpec,
    options: Mapping[str, Any],
    given: GivenPhases,
    *,
    fix: Sequence[str] = (),
    forbid: Sequence[str] = (),
    fastest: bool = False,
    time_limit: float = 30.0,
    tell: Callable[[str], object],
) -> PlannedPhases:
    """Plan all phases together. `options`: of the command `plan`, by name. `time_limit`: seconds of each search.

    Raises:
        SpecError: an option or a phase is not valid, or nothing divides.
        InfeasibleError: nothing fits a phase.
    """
    for name in _ALONE:
        if options[name]:
            raise SpecError(
                f"--{name.replace('_', '-')} may choose another training in each phase; leave it out beside --phases"
            )
    _check_stated(given, options)
    closed, may_choose = read_may_choose(options)
    jobs: list[tuple[int, ModelSpec, TrainingSpec]] = []
    for number, phase in enumerate(given.phases, start=1):
        before, model = model, model if phase.model is None else load_model(phase.model)
        training = _training(phase, closed, model, cluster, tell)
        if number > 1 and (why := why_not_grow(before, model, training.trainable)):
            raise SpecError(
                f"phase {number} trains another model ({model.name}) than the phase before ({before.name}), and {why}"
            )
        jobs.append((phase.steps, model, training))
    result = plan_phases(
        cluster,
        jobs,
        given.switching,
        fixed=asked(options, fix=fix, forbid=forbid),
        may_choose=may_choose,
        time_limit_seconds=time_limit,
        tolerance=0.0 if fastest else TOLERANCE,
    )
    files = (
        PlanFile(
            model_name=phase.model.name,
            model_config_json=phase.model.config,
            cluster=cluster,
            training=phase.training,
            plan=phase.plan,
            estimate=phase.estimate,
        )
        for phase in result.phases
    )
    phases = tuple(Phase(steps=phase.steps, plan_file=file) for phase, file in zip(result.phases, files, strict=True))
    return PlannedPhases(result, PhasesFile(phases=phases, switching=given.switching))


def _training(
    phase: GivenPhase, options: Mapping[str, Any], model: ModelSpec, cluster: ClusterSpec, tell: Callable[[str], object]
) -> TrainingSpec:
    changes = phase.model_dump(exclude={"steps", "model"}, exclude_none=True)
    return read_training({**options, **changes}, model, cluster, tell)


def _check_stated(given: GivenPhases, options: Mapping[str, Any]) -> None:
    """
    Raises:
        SpecError: a phase has no sequence length or no batch, and neither have the options.
    """
    for name in ("seq_len", "global_batch"):
        without = [number for number, phase in enumerate(given.phases, start=1) if getattr(phase, name) is None]
        if options[name] is None and without:
            raise SpecError(
                f"phase {without[0]} has no {name}; state it there, or give --{name.replace('_', '-')} for every phase without"
            )
