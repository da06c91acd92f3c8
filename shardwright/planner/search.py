"""The search: every entry of the space in order of its bound, until no bound is below the best plan found."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ..costmodel.catalog_times import CatalogTimes
from ..costmodel.cluster import ClusterSpec
from ..costmodel.estimate import Estimate
from ..costmodel.evaluate import estimate_plan
from ..costmodel.model import ModelSpec
from ..costmodel.op_times import Array, OpTimes
from ..costmodel.plan import Plan
from ..costmodel.training import TrainingSpec
from .bounds import lower_bounds
from .fixed import Fixed
from .infeasible import infeasible
from .layer_ranges import layer_ranges
from .recompute_mix import allowed_policies
from .solve_entry import EntrySolver, Solved, plan_of
from .space import enumerate_space
from .space_costs import space_costs

Progress = Callable[[int, int, float], None]
_ROUNDING = 1e-9
_SOLVED_FOR_RUNNER_UP = 4


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
        runners_up: good plans with other meshes, the fastest first.
    """

    plan: Plan
    estimate: Estimate
    bound_seconds: float
    candidates_total: int
    candidates_solved: int
    complete: bool
    seconds: float
    runners_up: tuple[RunnerUp, ...]

    @property
    def gap(self) -> float:
        """How much of the step a better plan might save at most: (step - bound) / step."""
        return max(0.0, 1 - self.bound_seconds / self.estimate.step_seconds)


def search(
    model: ModelSpec,
    cluster: ClusterSpec,
    training: TrainingSpec,
    *,
    fixed: Fixed | None = None,
    times: OpTimes | None = None,
    time_limit_seconds: float = 30.0,
    runners_up: int = 3,
    progress: Progress | None = None,
) -> SearchResult:
    """The plan with the shortest predicted step that fits, on all devices of the cluster.

    The closed form that is minimised equals the simulated timeline (a law of the cost model), so that simulating the
    best few would not change their order. `progress` is called with (solved, still open, best seconds).

    Raises:
        SpecError: nothing divides, or what is fixed contradicts itself.
        InfeasibleError: plans divide and none fits the memory; says what binds and what would fit.
    """
    started, fixed = time.perf_counter(), fixed or Fixed()
    times = times or CatalogTimes(cluster, training)
    space = enumerate_space(model, cluster, training, fixed)
    costs = space_costs(space, model, cluster, training, times)
    ranges, allowed = layer_ranges(model), allowed_policies(fixed.recompute)
    bounds = lower_bounds(costs, ranges, allowed)
    run = _BranchAndBound(EntrySolver(costs, ranges, allowed), bounds, started + time_limit_seconds, progress)
    run.run()
    if run.best is None:
        raise infeasible(model, cluster, training, fixed, times)
    others = run.other_meshes(runners_up)
    plan = plan_of(run.best, space, model)
    return SearchResult(
        plan=plan,
        estimate=estimate_plan(model, cluster, training, plan, times),
        bound_seconds=run.bound_seconds(),
        candidates_total=len(space),
        candidates_solved=run.solved,
        complete=run.complete,
        runners_up=tuple(RunnerUp(plan_of(found, space, model), found.step_seconds) for found in others),
        seconds=time.perf_counter() - started,
    )


@dataclass
class _BranchAndBound:
    """Solves entries in order of their bound. Entries that memory rules out have an infinite bound."""

    solver: EntrySolver
    bounds: Array
    deadline: float
    progress: Progress | None
    best: Solved | None = None
    solved: int = 0
    complete: bool = True
    _open_bound: float = np.inf
    _by_mesh: dict[tuple[int, ...], Solved] = field(default_factory=dict)

    def run(self) -> None:
        """Search until no open bound is below the best, or the deadline."""
        order = np.argsort(self.bounds, kind="stable")
        for place, entry in enumerate(order):
            bound = float(self.bounds[entry])
            if not bound < self._limit * (1 - _ROUNDING):
                return
            if self.best is not None and time.perf_counter() > self.deadline:
                self.complete, self._open_bound = False, min(self._open_bound, bound)
                return
            self._try(int(entry), bound)
            if self.progress is not None:
                self.progress(self.solved, len(order) - place - 1, self._limit)

    def bound_seconds(self) -> float:
        """What no plan of the space is below."""
        return min(self._open_bound, self._limit)

    def other_meshes(self, count: int) -> list[Solved]:
        """The best of each other mesh that was met, and where these are too few, of those with the best bounds."""
        assert self.best is not None
        mine = self._mesh(self.best.entry)
        tried: set[tuple[int, ...]] = set(self._by_mesh)
        for entry in np.argsort(self.bounds, kind="stable"):
            others = {mesh for mesh in self._by_mesh if mesh != mine}
            if len(others) >= count or not np.isfinite(self.bounds[entry]) or time.perf_counter() > self.deadline:
                break
            mesh = self._mesh(int(entry))
            if mesh not in tried:
                tried.add(mesh)
                self._solve_mesh(mesh)
        found = [solved for mesh, solved in self._by_mesh.items() if mesh != mine]
        return sorted(found, key=lambda solved: solved.step_seconds)[:count]

    @property
    def _limit(self) -> float:
        return np.inf if self.best is None else self.best.step_seconds

    def _try(self, entry: int, bound: float) -> None:
        self.solved += 1
        outcome = self.solver.solve(entry, bound, self._limit)
        self._open_bound = min(self._open_bound, outcome.bound_seconds)
        if outcome.solved is not None:
            self.best = outcome.solved
            self._by_mesh[self._mesh(entry)] = outcome.solved

    def _solve_mesh(self, mesh: tuple[int, ...]) -> None:
        """The best plan of the mesh's first few entries without interleaving, which is good soonest."""
        space = self.solver.costs.space
        same = np.all([space.column(name) == degree for name, degree in zip(_AXES, mesh, strict=True)], axis=0)
        entries = np.flatnonzero(same & (space.stages_per_rank == 1))
        best: Solved | None = None
        for entry in entries[np.argsort(self.bounds[entries], kind="stable")][:_SOLVED_FOR_RUNNER_UP]:
            limit = np.inf if best is None else best.step_seconds
            if self.bounds[entry] < limit:
                best = self.solver.solve(int(entry), float(self.bounds[entry]), limit).solved or best
        if best is not None:
            self._by_mesh[mesh] = best

    def _mesh(self, entry: int) -> tuple[int, ...]:
        space = self.solver.costs.space
        base = int(space.base_index[entry])
        return tuple(int(getattr(space.base, name)[base]) for name in _AXES)


_AXES = ("pp", "dp_replicate", "dp_shard", "tp")
