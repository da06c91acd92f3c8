"""The result of a comparison: several ways to train the same model."""

from typing import Any

from pydantic import Field

from shardwright.specs import OWN_STACK, ClusterSpec, Estimate, Plan, Spec


class ComparedPlan(Spec):
    """One way to train. If it cannot run, `reason` says why, and it has no plan or one that needs too much memory.

    `lacking_bytes`: by how much a device's memory is exceeded, 0 where it is not.
    `cluster`: the devices of the plan where these are a part of a mixed cluster, or its groups in another order; not in files.
    """

    name: str
    plan: Plan | None = None
    estimate: Estimate | None = None
    reason: str | None = None
    lacking_bytes: float = 0.0
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

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dumps`."""
        return self.model_dump(mode="json")
