"""Other plans beside the chosen one, each better in some way: in lines, as a table and for a program."""

from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from shardwright.base import units as readable
from shardwright.specs import Estimate, Plan

from .words import choice_words

OTHERS_COLUMNS = ("plan", "choices", "step", "change", "free memory")


class OtherPlan(NamedTuple):
    """A plan that is better than the chosen one in the ways that `names` says; `free_bytes` of the usable memory stay free.
    `trained`: in words, what its training spec has otherwise."""

    names: tuple[str, ...]
    plan: Plan
    estimate: Estimate
    free_bytes: float
    trained: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return " and ".join(self.names)


def other_line(other: OtherPlan, plan: Plan, mine: Estimate) -> str:
    """`fastest: pp4 x dp_shard4: 76.9 s (-1.3%), 0.3 GiB free`; with all choices where the mesh is that of the chosen plan."""
    shown = str(other.plan.mesh) if other.plan.mesh != plan.mesh else choice_words(other.plan)
    shown = "; ".join((shown, *other.trained))
    seconds = readable.seconds(other.estimate.step_seconds)
    return (
        f"{other.title}: {shown}: {seconds} ({_change(other, mine)}), {readable.size(max(0.0, other.free_bytes))} free"
    )


def other_cells(other: OtherPlan, mine: Estimate) -> list[str]:
    """One row in the order of `OTHERS_COLUMNS`."""
    seconds, free = readable.seconds(other.estimate.step_seconds), readable.size(max(0.0, other.free_bytes))
    return [other.title, "; ".join((choice_words(other.plan), *other.trained)), seconds, _change(other, mine), free]


def others_table(others: tuple[OtherPlan, ...], mine: Estimate) -> Table:
    """The other plans, readable in 80 columns."""
    table = Table(title="Other plans, each better in some way", title_justify="left", box=SIMPLE_HEAD)
    for column in OTHERS_COLUMNS[:2]:
        table.add_column(column)
    for column in OTHERS_COLUMNS[2:]:
        table.add_column(column, justify="right", no_wrap=True)
    for other in others:
        table.add_row(*map(Text, other_cells(other, mine)))
    return table


def others_json(others: tuple[OtherPlan, ...], mine: Estimate) -> list[dict[str, Any]]:
    """Plain data for `json.dumps`; `change` is the step over that of the chosen plan, minus 1."""
    return [
        {
            "names": list(other.names),
            "plan": other.plan.model_dump(mode="json"),
            "step_seconds": other.estimate.step_seconds,
            "change": other.estimate.step_seconds / mine.step_seconds - 1,
            "free_bytes": other.free_bytes,
            "trained": list(other.trained),
        }
        for other in others
    ]


def _change(other: OtherPlan, mine: Estimate) -> str:
    return f"{other.estimate.step_seconds / mine.step_seconds - 1:+.1%}"
