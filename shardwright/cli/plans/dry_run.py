"""The dry run of one plan, or of each phase of a run."""

from typing import TYPE_CHECKING

import typer

from shardwright.cli.options import console, needs_torch

if TYPE_CHECKING:
    from shardwright.costmodel import PlanFile
    from shardwright.specs import DryRun


def traced(plan_file: "PlanFile", ranks: list[int] | None) -> "DryRun":
    """Trace a step of a plan.

    Raises:
        SpecError: the executor does not run the plan, or torch is not installed.
    """
    try:
        from shardwright.executor.dry import dry_run
    except ModuleNotFoundError as missing:
        raise needs_torch("a dry run", missing) from None
    return dry_run(plan_file, ranks)


def print_dry_run(found: "DryRun") -> None:
    """Print a table for each traced rank, and what is counted otherwise."""
    from shardwright.reports.plan import traced_notes, traced_table

    for rank in found.ranks:
        console().print(traced_table(found, rank))
    for note in traced_notes(found):
        typer.echo(note)


def given_ranks(given: str | None) -> list[int] | None:
    """Read `--dry-ranks`.

    Raises:
        SpecError: it is no list of ranks.
    """
    from shardwright.base import SpecError

    if given is None:
        return None
    parts = [part.strip() for part in given.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise SpecError(f"--dry-ranks '{given}' is no list of ranks; give numbers like 0,5")
    return [int(part) for part in parts]
