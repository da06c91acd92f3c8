"""What `plan`, `explain` and `run --dry` do with a run in phases."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .options import console, note, print_json
from .plans import explained, print_dry_run, traced

if TYPE_CHECKING:
    from shardwright.costmodel.phases import PhasesFile, Switch
    from shardwright.planner.phases import PlannedPhase
    from shardwright.specs import ClusterSpec
    from shardwright.specs.model import ModelSpec

_ONE_PLAN = ("certify", "details", "avoid", "allow_fewer_devices")
"""Options of `plan` that are of one plan, not of a run in phases."""
_SEARCH_SECONDS = 30.0
"""A search for another plan of a phase ends then, as one of `plan` does."""


def plan_phases(model: "ModelSpec", cluster: "ClusterSpec", given: Mapping[str, Any]) -> None:
    """Plan a run in phases, print it, and write its file."""
    from shardwright.base import SpecError
    from shardwright.costmodel.phases import write_phases_file
    from shardwright.jobs import plan_phases_job, read_given_phases
    from shardwright.reports.pages import PhasesPage, write_phases_page
    from shardwright.reports.plan import PhaseLine, other_ways_notes, phases_notes, phases_table

    for name in _ONE_PLAN:
        if given[name]:
            raise SpecError(f"--{name.replace('_', '-')} is for one plan; leave it out beside --phases")
    result, file = plan_phases_job(
        model,
        cluster,
        given,
        read_given_phases(given["phases"]),
        fix=given["fix"] or (),
        forbid=given["forbid"] or (),
        fastest=given["fastest"],
        time_limit=given["time_limit"],
        tell=note,
    )
    out, lines = given["out"], [PhaseLine(*phase) for phase in result.phases]
    if out:
        write_phases_file(out, file)
    one, own = result.one_placement_seconds, result.own_best_seconds
    why = [
        *phases_notes(lines, seconds=result.seconds, build_seconds=file.switching.build_seconds),
        *other_ways_notes(lines, seconds=result.seconds, one_placement_seconds=one, own_best_seconds=own),
    ]
    if given["report"]:
        write_phases_page(given["report"], PhasesPage(file=file, phases=lines, why=why))
    if given["as_json"]:
        switches = _switches_json([phase.switch for phase in result.phases])
        planned = {"phases_file": file.model_dump(mode="json"), "switches": switches}
        print_json({**planned, "seconds": result.seconds, "one_placement_seconds": one, "own_best_seconds": own})
        return
    console().print(phases_table(lines))
    for sentence in why:
        typer.echo(sentence)
    if out:
        typer.echo(f"wrote {out}; train with it: shardwright run {out}")


def explain_phases(path: Path, given: Mapping[str, Any]) -> None:
    """Print each phase as `explain` does a plan, the switches between them, and what other plans would make of the run.

    Raises:
        SpecError: an option is for one plan; the file is not valid.
        SystemExit: a plan does not fit.
    """
    from shardwright.jobs import phases_of
    from shardwright.reports.pages import PhasesPage, write_phases_page
    from shardwright.reports.plan import PhaseLine, measured_phases_table, phases_notes, phases_table
    from shardwright.specs import read_measurement

    _refuse_for_one_plan(path, given, ("pipeline_layout", "step_noise"))
    file = _read(path, given["profile"])
    measured = read_measurement(given["measurement"]) if given["measurement"] else None
    phases = phases_of(file)
    each = [explained(phase.plan_file, given, name=f"phase {number}: ") for number, phase in enumerate(file.phases, 1)]
    seconds = sum(phase.seconds + phase.switch.seconds for phase in phases)
    lines = [PhaseLine(*phase) for phase in phases]
    told = list(phases_notes(lines, seconds=seconds, build_seconds=file.switching.build_seconds))
    why = _why(file, phases, seconds)
    if given["report"]:
        page = PhasesPage(file=file, phases=lines, why=[*told, *why], measurement=measured)
        write_phases_page(given["report"], page)
    if given["as_json"]:
        parts = [{"steps": phase.steps, **one.to_json()} for phase, one in zip(phases, each, strict=True)]
        run = {"measurement": measured.model_dump(mode="json")} if measured else {}
        switches = _switches_json([phase.switch for phase in phases])
        print_json({"phases": parts, "switches": switches, "seconds": seconds, "why": why, **run})
    else:
        for number, one in enumerate(each, start=1):
            console().rule(f"Phase {number}", align="left")
            one.print(f"phase {number}")
        console().rule("All phases", align="left")
        console().print(phases_table(lines))
        for sentence in (*told, *why):
            typer.echo(sentence)
        if measured:
            table = measured_phases_table(file, measured, warmup_steps=measured.warmup_steps)
            console().print(table)
    for one in each:
        one.end()


def _why(file: "PhasesFile", phases: "tuple[PlannedPhase, ...]", seconds: float) -> list[str]:
    """Sentences on what other plans would make of a run that takes so many seconds."""
    from shardwright.planner.phases import searched_again, why_these_plans
    from shardwright.reports.plan import PhaseLine, other_ways_notes, searched_notes

    run, lines = (file.phases[0].plan_file.cluster, phases, file.switching), [PhaseLine(*phase) for phase in phases]
    again = searched_again(*run, time_limit_seconds=_SEARCH_SECONDS)
    found: list[str] = []
    if again:
        found += searched_notes(lines, seconds=seconds, found_seconds=again.seconds)
        found += other_ways_notes(
            lines,
            seconds=seconds,
            one_placement_seconds=again.one_placement_seconds,
            own_best_seconds=again.own_best_seconds,
        )
    return found + why_these_plans(*run, time_limit_seconds=_SEARCH_SECONDS)


def dry_phases(path: Path, ranks: list[int] | None, *, as_json: bool) -> None:
    """Make the dry run of each phase."""
    from shardwright.base import SpecError
    from shardwright.costmodel.phases import read_phases_file

    found = []
    for number, phase in enumerate(read_phases_file(path).phases, start=1):
        try:
            found.append(traced(phase.plan_file, ranks))
        except SpecError as error:
            raise SpecError(f"phase {number}: {error}") from None
    if as_json:
        print_json({"phases": [one.model_dump(mode="json") for one in found]})
        return
    for number, one in enumerate(found, start=1):
        console().rule(f"Phase {number}", align="left")
        print_dry_run(one)


def _read(path: Path, profile: Path | None) -> "PhasesFile":
    """Read a phases file; a given profile replaces those of its clusters."""
    from shardwright.costmodel.phases import read_phases_file
    from shardwright.jobs import profiled

    file = read_phases_file(path)
    if profile is None:
        return file
    phases = tuple(
        phase.model_copy(
            update={
                "plan_file": phase.plan_file.model_copy(update={"cluster": profiled(phase.plan_file.cluster, profile)})
            }
        )
        for phase in file.phases
    )
    return file.model_copy(update={"phases": phases})


def _refuse_for_one_plan(path: Path, given: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """
    Raises:
        SpecError: an option of these names is given.
    """
    from shardwright.base import SpecError

    for name in names:
        if given[name] is not None:
            raise SpecError(f"--{name.replace('_', '-')} is for one plan; name a phase beside it, such as {path}:1")


def _switches_json(switches: "list[Switch]") -> list[dict[str, Any]]:
    return [switch._asdict() for switch in switches]
