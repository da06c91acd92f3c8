"""The result of a search: the best plan and the facts that are known about it."""

from dataclasses import dataclass

from shardwright.base import units
from shardwright.planner.space import Fixed
from shardwright.specs import Estimate, Plan, TrainingSpec


@dataclass(frozen=True)
class RunnerUp:
    """A good plan with another mesh, and its step time. `training`: the training spec, where it is not that of the result."""

    plan: Plan
    step_seconds: float
    training: TrainingSpec | None = None


@dataclass(frozen=True)
class AsGiven:
    """What the planner chose of the training spec, and what the given value would take.

    `name`: the choice. `fastest`: the fastest plan that was found with the given value; None where none fits.
    """

    name: str
    fastest: RunnerUp | None


@dataclass(frozen=True)
class TradeOff:
    """A plan that is better than the chosen one in some way: `names` says in which; `free_bytes` of the usable memory stay free.
    `training`: its training spec."""

    names: tuple[str, ...]
    plan: Plan
    estimate: Estimate
    free_bytes: float
    training: TrainingSpec


@dataclass(frozen=True)
class SearchResult:
    """The best plan and the facts that are known about it.

    Attributes:
        plan, estimate: the plan, and its estimate.
        training, given: the training spec of the plan, and the one that was given. They differ in what the planner may choose.
        as_given: one item for each of these differences.
        bound_seconds: lower bound by the cost model on every plan of the space.
        candidates_total: entries of the space (mesh, ZeRO stage, microbatch, schedule, offload).
        candidates_solved: entries whose stages were searched; the others can't beat the plan, or can't fit.
        complete: False where the time limit ended the search.
        seconds: duration of the search.
        fixed: the choices that the search had to keep.
        fastest: the fastest plan found, where a simpler one was chosen.
        trade_offs: plans that are faster, simpler or leave more memory free (branching/trade_offs.py).
        exact: the best plan with an exact reduction of gradients, where the plan approximates it.
        runners_up: the best plans of the other meshes with the lowest bounds, with one stage on each rank and whole backwards,
            fastest first.
    """

    plan: Plan
    estimate: Estimate
    training: TrainingSpec
    given: TrainingSpec
    bound_seconds: float
    candidates_total: int
    candidates_solved: int
    complete: bool
    seconds: float
    fixed: Fixed
    runners_up: tuple[RunnerUp, ...]
    fastest: RunnerUp | None = None
    trade_offs: tuple[TradeOff, ...] = ()
    as_given: tuple[AsGiven, ...] = ()
    exact: RunnerUp | None = None

    def __repr__(self) -> str:
        return f"<SearchResult {self.plan.mesh}: {self.estimate.words}; gap {units.share(self.gap)}>"

    @property
    def gap(self) -> float:
        """Upper bound on the share of the step that a better plan might save: (step - bound) / step."""
        return max(0.0, 1 - self.bound_seconds / self.estimate.step_seconds)

    @property
    def unproven(self) -> float:
        """Upper bound on the share of the step of the fastest plan found that a still faster one might save."""
        fastest = self.fastest.step_seconds if self.fastest else self.estimate.step_seconds
        return max(0.0, 1 - self.bound_seconds / fastest)
