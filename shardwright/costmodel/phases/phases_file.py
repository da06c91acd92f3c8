"""The phases file: the phases of one run, each with its steps and its plan. JSON, versioned, with a published schema."""

import json
from pathlib import Path
from typing import Literal, NamedTuple, Self

from pydantic import Field, model_validator

from shardwright.base import read_json, write_whole
from shardwright.costmodel import PHASES_KIND, PlanFile, phase_of
from shardwright.specs import PositiveInt, Spec, TrainingSpec, read_document

from .growth import why_not_grow
from .switching import Switching, same_placement

SCHEMA_VERSION: Literal[1] = 1
CHANGES = ("seq_len", "global_batch", "lengths", "packing", "loss_chunks", "recompute_modules")
"""Fields of the training that may differ between phases."""


class Span(NamedTuple):
    """A phase in its run. It takes the steps after `steps_before` up to `last_step`.

    Its first sequence has the number `sequences_before`: the tokens of the phases before over its sequence length, rounded up.
    `from_memory`: it takes over the state of the phase before in memory, as every rank keeps what it holds. `grown_from`: the phase before,
    where its model is smaller.
    """

    number: int
    plan_file: PlanFile
    steps_before: int
    last_step: int
    sequences_before: int
    from_memory: bool
    grown_from: PlanFile | None = None


class Phase(Spec):
    """`steps` optimizer steps of a job under a plan."""

    steps: PositiveInt
    plan_file: PlanFile


class PhasesFile(Spec):
    """What `shardwright plan --phases` writes and `shardwright run` reads: one run of a model in phases.

    `switching`: what the user says of changes from one plan to the next.
    """

    kind: Literal["shardwright-phases"] = PHASES_KIND
    schema_version: Literal[1] = SCHEMA_VERSION
    phases: tuple[Phase, ...] = Field(min_length=1)
    switching: Switching = Switching()

    @property
    def steps(self) -> int:
        """Optimizer steps of all phases."""
        return sum(phase.steps for phase in self.phases)

    @property
    def spans(self) -> tuple[Span, ...]:
        """The phases in order. Those that follow each other with one plan file are one."""
        spans: list[Span] = []
        steps, tokens = 0, 0
        for phase in self.phases:
            training = phase.plan_file.training
            if spans and spans[-1].plan_file == phase.plan_file:
                spans[-1] = spans[-1]._replace(last_step=steps + phase.steps)
            else:
                before = spans[-1].plan_file if spans else None
                stays = before is not None and same_placement(before.plan, phase.plan_file.plan)
                grows = before is not None and before.model_config_json != phase.plan_file.model_config_json
                first, own = -(-tokens // training.seq_len), (steps, steps + phase.steps)
                spans.append(
                    Span(len(spans) + 1, phase.plan_file, *own, first, stays and not grows, before if grows else None)
                )
            steps += phase.steps
            tokens += phase.steps * training.global_batch * training.seq_len
        return tuple(spans)

    def span_after(self, step: int) -> Span:
        """The phase that takes the step after `step`; the last one where there is none."""
        return next((span for span in self.spans if step < span.last_step), self.spans[-1])

    @model_validator(mode="after")
    def _one_run(self) -> Self:
        first = self.phases[0].plan_file
        for number, phase in enumerate(self.phases[1:], start=2):
            own = phase.plan_file
            before = self.phases[number - 2].plan_file
            grows = before.model_config_json != own.model_config_json
            if grows and (why := why_not_grow(before.model(), own.model(), own.training.trainable)):
                raise ValueError(
                    f"phase {number} trains another model ({own.model_name}) than the phase before ({before.model_name}), and {why}"
                )
            if own.plan.mesh.ranks != first.plan.mesh.ranks:
                raise ValueError(
                    f"phase {number} has {own.plan.mesh.ranks} ranks and phase 1 has {first.plan.mesh.ranks}; plan all phases for as many"
                )
            if different := _difference(first.training, own.training):
                raise ValueError(
                    f"phase {number} has another {different} than phase 1; only {', '.join(CHANGES)} may differ"
                )
        for number, phase in enumerate(self.phases, start=1):
            if phase.plan_file.plan.sync.approximate and len(self.phases) > 1:
                raise ValueError(
                    f"phase {number} has sync {phase.plan_file.plan.sync.method}, whose replicas differ where phases meet; plan with --sync exact"
                )
        return self


def _difference(first: TrainingSpec, second: TrainingSpec) -> str:
    """The first field of the training in which two phases must not differ, and do; else empty."""
    names = (name for name in TrainingSpec.model_fields if name not in CHANGES)
    return next((name for name in names if getattr(first, name) != getattr(second, name)), "")


def is_phases_file(path: Path) -> bool:
    """Whether a file says that it is a phases file. A phase of one is a plan, and what a user writes in TOML has none yet.

    Raises:
        SpecError: it cannot be read, or is no JSON.
    """
    if phase_of(path)[1] is not None or path.suffix == ".toml":
        return False
    data = read_json(path)
    return isinstance(data, dict) and data.get("kind") == PHASES_KIND


def read_phases_file(path: Path) -> PhasesFile:
    """Read a phases file.

    Raises:
        SpecError: the file is not a phases file, has a newer schema, or is not valid.
    """
    make = f"write one with 'shardwright plan --phases FILE --out {path.name}'"
    return read_document(PhasesFile, path, name="phases", make=make, again="plan again")


def write_phases_file(path: Path, phases: PhasesFile) -> None:
    """Write a phases file completely or not at all. A complete file replaces an existing one.

    Raises:
        SpecError: the folder is missing or not writable.
    """
    write_whole(path, json.dumps(phases.model_dump(mode="json"), indent=1, allow_nan=False) + "\n")
