"""The result of a comparison: several ways to train the same model."""

import io
from typing import Any

from pydantic import Field

from shardwright.base import units
from shardwright.specs import OWN_STACK, ClusterSpec, Estimate, Plan, Spec, TrainingSpec


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
        from rich.console import Console

        from .tables import comparison_table

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
