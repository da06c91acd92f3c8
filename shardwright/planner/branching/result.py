"""What a search returns: the best plan and what is known about it."""

from dataclasses import dataclass

from shardwright.planner.space import Fixed
from shardwright.specs import Estimate, Plan


@dataclass(frozen=True)
class RunnerUp:
    """A good plan with another mesh, and the step that it takes."""

    plan: Plan
    step_seconds: float


@dataclass(frozen=True)
class SearchResult:
    """The best plan and what is known about it.

    Attributes:
        plan, estimate: the plan, and its estimate.
        bound_seconds: no plan of the space takes less than this by the cost model.
        candidates_total: entries of the space (mesh, ZeRO stage, microbatch, schedule, offload).
        candidates_solved: those whose stages were searched; the others can't beat the plan, or can't fit.
        complete: False where the time limit ended the search.
        seconds: how long the search took.
        fixed: what the search had to keep.
        runners_up: the best plans without interleaving with other meshes, those of the lowest bounds, fastest first.
    """

    plan: Plan
    estimate: Estimate
    bound_seconds: float
    candidates_total: int
    candidates_solved: int
    complete: bool
    seconds: float
    fixed: Fixed
    runners_up: tuple[RunnerUp, ...]

    @property
    def gap(self) -> float:
        """How much of the step a better plan might save at most: (step - bound) / step."""
        return max(0.0, 1 - self.bound_seconds / self.estimate.step_seconds)
