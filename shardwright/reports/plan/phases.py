"""The phases of a run as a table, with what they and the switches between them take."""

import statistics
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from shardwright.base import units as readable
from shardwright.costmodel.phases import PhasesFile, Switch
from shardwright.specs import Estimate, Measurement, Plan, TrainingSpec
from shardwright.specs.model import ModelSpec

from .words import choice_words

_SWITCH_WORDS = {
    "none": "",
    "memory": "every rank keeps what it holds",
    "checkpoint": "by a checkpoint under the plan before",
}


MEASURED_PHASES_COLUMNS = ("phase", "steps", "predicted step", "measured step", "difference", "last loss")
_MORE = 1.0005
"""What is printed as 0.1% more, or above."""


class PhaseLine(NamedTuple):
    """A phase: its steps, job and plan, and the switch before it."""

    steps: int
    model: ModelSpec
    training: TrainingSpec
    plan: Plan
    estimate: Estimate
    switch: Switch


def phases_table(phases: Sequence[PhaseLine]) -> Table:
    """One row for each phase, readable in 80 columns."""
    table = Table(title="Phases", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("phase", justify="right")
    table.add_column("steps", justify="right", no_wrap=True)
    table.add_column("sequences", no_wrap=True)
    table.add_column("plan")
    for column in ("step", "phase", "switch"):
        table.add_column(column, justify="right", no_wrap=True)
    for number, phase in enumerate(phases, start=1):
        step, training = phase.estimate.step_seconds, phase.training
        seconds = (readable.seconds(step), readable.seconds(phase.steps * step), readable.seconds(phase.switch.seconds))
        job = f"{training.global_batch:,} of {training.seq_len:,}"
        table.add_row(*map(Text, (str(number), f"{phase.steps:,}", job, choice_words(phase.plan), *seconds)))
    return table


def phases_notes(
    phases: Sequence[PhaseLine],
    *,
    seconds: float,
    build_seconds: float | None,
) -> Iterator[str]:
    """Yield sentences on the whole run: its seconds and its switches."""
    steps = sum(phase.steps for phase in phases)
    switched = sum(phase.switch.seconds for phase in phases)
    yield f"{steps:,} steps take {readable.seconds(seconds)}, of which switches {readable.seconds(switched)}."
    for number, (before, phase) in enumerate(pairwise(phases), start=2):
        if phase.model != before.model:
            yield f"Phase {number} has {phase.model.layer_count} layers in place of {before.model.layer_count}; new ones pass their input on at first."
        if words := _SWITCH_WORDS[phase.switch.kind]:
            yield f"Phase {number} begins in {readable.seconds(phase.switch.seconds)}: {words}."
    if build_seconds is None and any(phase.switch.kind != "none" for phase in phases):
        yield "Not counted: the time to build the model under the next plan (build_seconds under [switching])."


def other_ways_notes(
    phases: Sequence[PhaseLine], *, seconds: float, one_placement_seconds: float | None, own_best_seconds: float
) -> Iterator[str]:
    """Yield sentences on what other choices of plans would take, as the search found them."""
    grows = any(phase.model != phases[0].model for phase in phases)
    if one_placement_seconds is None and not grows:
        yield "No placement of weights was found that fits every phase."
    elif one_placement_seconds is not None and one_placement_seconds > _MORE * seconds:
        yield f"The best placement found for all phases would take {_more(one_placement_seconds, seconds)}."
    if own_best_seconds > _MORE * seconds:
        yield f"With the best plan of each phase for itself it would take {_more(own_best_seconds, seconds)}."


def searched_notes(phases: Sequence[PhaseLine], *, seconds: float, found_seconds: float) -> Iterator[str]:
    """Yield a sentence where a search finds plans for the same phases that are faster by what is printed as 0.1% or more."""
    if found_seconds < seconds / _MORE:
        less = f"{readable.seconds(found_seconds)}, {1 - found_seconds / seconds:.1%} less"
        yield f"A search finds plans for these {len(phases)} phases with which the run would take {less}."


def measured_phases_table(phases: PhasesFile, measurement: Measurement, *, warmup_steps: int) -> Table:
    """The step of each phase, predicted and measured, as `measured_phases_rows` has it."""
    table = Table(title="Phases", title_justify="left", box=SIMPLE_HEAD)
    for column in MEASURED_PHASES_COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for cells in measured_phases_rows(phases, measurement, warmup_steps=warmup_steps):
        table.add_row(*map(Text, cells))
    return table


def measured_phases_rows(phases: PhasesFile, measurement: Measurement, *, warmup_steps: int) -> list[tuple[str, ...]]:
    """The cells of each phase that was measured: medians over its steps but the first `warmup_steps`, or over all if there are no more."""
    rows: list[tuple[str, ...]] = []
    for span in phases.spans:
        own = [record for record in measurement.steps if span.steps_before < record.step <= span.last_step]
        if not own:
            continue
        measured = statistics.median(record.seconds for record in own[warmup_steps:] or own)
        predicted = span.plan_file.estimated().step_seconds
        cells = (
            f"{span.number}",
            f"{span.steps_before + 1:,} to {own[-1].step:,}",
            readable.seconds(predicted),
            readable.seconds(measured),
            readable.signed_share(predicted / measured - 1),
            f"{own[-1].loss:.4f}",
        )
        rows.append(cells)
    return rows


def _more(other_seconds: float, seconds: float) -> str:
    return f"{readable.seconds(other_seconds)}, {other_seconds / seconds - 1:.1%} more"
