"""The result of a comparison: several ways to train the same model."""

import io
from typing import Any

from pydantic import Field
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from shardwright.base import units
from shardwright.specs import OWN_STACK, ClusterSpec, Estimate, Plan, Spec, TrainingSpec

from .words import choice_words


class ComparedPlan(Spec):
    """One way to train. If it cannot run, `reason` says why, and it has no plan or one that needs too much memory.

    `lacking_bytes`: by how much a device's memory is exceeded, 0 where it is not.
    `trained`: in words, what the planner chose of the training spec; `training`: that spec, where it is not that of the comparison; not
    in files.
    `cluster`: the devices of the plan where these are a part of a mixed cluster, or its groups in another order; not in files.
    """

    name: str
    plan: Plan | None = None
    estimate: Estimate | None = None
    reason: str | None = None
    lacking_bytes: float = 0.0
    trained: tuple[str, ...] = ()
    training: TrainingSpec | None = Field(default=None, exclude=True, repr=False)
    cluster: ClusterSpec | None = Field(default=None, exclude=True, repr=False)

    @property
    def step_seconds(self) -> float | None:
        """Predicted seconds of one step; None where it cannot run."""
        return self.estimate.step_seconds if self.estimate is not None and self.reason is None else None


class Comparison(Spec):
    """The ways, in the requested order."""

    model_name: str
    cluster_name: str
    stack: str = OWN_STACK
    rows: tuple[ComparedPlan, ...]

    @property
    def fastest(self) -> ComparedPlan | None:
        """The row predicted to be fastest; None where nothing fits."""
        able = [(row.step_seconds, row) for row in self.rows if row.step_seconds is not None]
        return min(able, key=lambda item: item[0])[1] if able else None

    def _repr_html_(self) -> str:
        """For notebooks."""
        page = Console(file=io.StringIO(), record=True, width=130)
        page.print(comparison_table(self))
        return page.export_html(inline_styles=True, code_format="<pre>{code}</pre>")

    def __repr__(self) -> str:
        best = self.fastest
        fastest = (
            f"fastest {best.name} ({units.seconds(best.step_seconds)})" if best and best.step_seconds else "none fits"
        )
        return f"<Comparison {self.model_name} on {self.cluster_name}: {len(self.rows)} ways, {fastest}>"

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dumps`."""
        return self.model_dump(mode="json")


def comparison_table(comparison: Comparison) -> RenderableType:
    """One line for each way that fits, and the reasons why the others do not; readable in 80 columns."""
    title = Text(comparison_title(comparison))  # plain text, because a name may look like rich's markup
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("plan", no_wrap=True)
    table.add_column("choices")
    for column in ("step", "tokens/s", "MFU", "memory", "slower by"):
        table.add_column(column, justify="right", no_wrap=True)
    reasons: list[Text] = []
    for row in comparison.rows:
        if row.step_seconds is None or row.plan is None or row.estimate is None:
            reasons.append(Text.assemble((f"{row.name}: ", "bold"), row.reason or "cannot run"))
            continue
        numbers = (
            units.seconds(row.step_seconds),
            units.count(row.estimate.tokens_per_s),
            units.share(row.estimate.mfu),
            units.size(row.estimate.peak_memory_bytes),
            _slower_by(row.step_seconds, comparison),
        )
        choices = "; ".join((choice_words(row.plan), *row.trained))
        style = "bold" if row is comparison.fastest else ""
        table.add_row(*map(Text, (row.name, choices, *numbers)), style=style)
    return Group(table, *reasons) if table.row_count else Group(*reasons)


def comparison_title(comparison: Comparison) -> str:
    """The compared model and cluster, and the software if it is not this project's own."""
    trained_by = "" if comparison.stack == OWN_STACK else f", trained by {comparison.stack}"
    return f"{comparison.model_name} on {comparison.cluster_name}{trained_by}"


def _slower_by(step_seconds: float, comparison: Comparison) -> str:
    """How much slower than the fastest row: a share below twice its time, else a multiple."""
    best = comparison.fastest
    if best is None or best.step_seconds is None:
        return "-"
    ratio = step_seconds / best.step_seconds
    return units.share(ratio - 1) if ratio < 2 else f"x {units.number(ratio)}"
