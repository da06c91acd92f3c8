"""Branch and bound over the space: entries are solved by their bound, until none is below the best plan found."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.costmodel import estimate_plan
from shardwright.costmodel.op_times import OpTimes
from shardwright.planner.bounds import lower_bounds
from shardwright.planner.space import Fixed, Space, enumerate_space, space_costs
from shardwright.planner.stages import EntrySolver, Solved
from shardwright.specs import AXES, ClusterSpec, Estimate, Plan, TrainingSpec
from shardwright.specs.model import ModelSpec

Progress = Callable[[int, int, float], None]
_ROUNDING = 1e-9
_SOLVED_FOR_RUNNER_UP = 24
_TINY = 1e-300


@dataclass
class BranchAndBound:
    """One search. Entries that don't fit the memory have an infinite bound and are never solved."""

    solver: EntrySolver
    bounds: Array
    times: OpTimes
    best: Solved | None = None
    solved: int = 0
    complete: bool = True
    _open_bound: float = np.inf

    @classmethod
    def start(
        cls, model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed, times: OpTimes
    ) -> Self:
        """Enumerate the space and bound its entries.

        Raises:
            SpecError: nothing divides, or the fixed choices contradict each other.
        """
        space = enumerate_space(model, cluster, training, fixed)
        costs = space_costs(space, model, training, times)
        solver = EntrySolver.of(costs, model)
        if solver.given is not None:  # the bounds hold for stages that the search chooses, not for given ones
            return cls(solver, np.zeros(len(space)), times)
        return cls(solver, lower_bounds(costs, solver.ranges, solver.allowed), times)

    def among(self, entries: Array) -> "BranchAndBound":
        """Return a search over only those entries (N,) that are true."""
        return BranchAndBound(self.solver, np.where(entries, self.bounds, np.inf), self.times)

    @property
    def space(self) -> Space:
        return self.solver.costs.space

    def estimate(self, model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, plan: Plan) -> Estimate:
        """Estimate a plan with the operation times of this search."""
        return estimate_plan(model, cluster, training, plan, self.times)

    def run(
        self, time_limit_seconds: float = np.inf, progress: Progress | None = None, *, most_solved: float = np.inf
    ) -> None:
        """Search until no open bound is below the best plan, the time is up, or `most_solved` entries are solved.

        The two limits take effect only after a first plan is found.
        """
        deadline = time.perf_counter() + time_limit_seconds
        order = self._order()
        for place, entry in enumerate(order):
            bound = float(self.bounds[entry])
            if not bound < self._limit * (1 - _ROUNDING):
                return
            if self.best is not None and (time.perf_counter() > deadline or self.solved >= most_solved):
                self.complete, self._open_bound = False, min(self._open_bound, bound)
                return
            self._solve(int(entry), bound)
            if progress is not None:
                progress(self.solved, len(order) - place - 1, self._limit)

    def bound_seconds(self) -> float:
        """Lower bound on every plan of the space, in seconds."""
        return min(self._open_bound, self._limit)

    def other_meshes(self, count: int) -> list[Solved]:
        """Return the best plans, without interleaving, of the `count` other
        meshes with the lowest bounds; fastest first."""
        assert self.best is not None
        tried = {self._mesh(self.best.entry)}
        found: list[Solved] = []
        for entry in self._order():
            if len(found) >= count or not np.isfinite(self.bounds[entry]):
                break
            mesh = self._mesh(int(entry))
            if mesh not in tried:
                tried.add(mesh)
                solved = self._best_of_mesh(mesh)
                found += [solved] if solved is not None else []
        return sorted(found, key=lambda solved: solved.step_seconds)

    def _order(self) -> IntArray:
        """Order entries by bound. Bounds that differ only by rounding keep the order of the space."""
        return np.argsort(np.round(np.log(np.maximum(self.bounds, _TINY)), 11), kind="stable")

    @property
    def _limit(self) -> float:
        return np.inf if self.best is None else self.best.step_seconds

    def _solve(self, entry: int, bound: float) -> None:
        self.solved += 1
        outcome = self.solver.solve(entry, bound, self._limit)
        self._open_bound = min(self._open_bound, outcome.bound_seconds)
        if outcome.solved is not None:
            self.best = outcome.solved

    def _best_of_mesh(self, mesh: tuple[int, ...]) -> Solved | None:
        same = np.all([self.space.column(name) == degree for name, degree in zip(AXES, mesh, strict=True)], axis=0)
        entries = np.flatnonzero(same & (self.space.stages_per_rank == 1))
        best: Solved | None = None
        for entry in entries[np.argsort(self.bounds[entries], kind="stable")][:_SOLVED_FOR_RUNNER_UP]:
            limit = np.inf if best is None else best.step_seconds
            if not self.bounds[entry] < limit:
                break
            best = self.solver.solve(int(entry), float(self.bounds[entry]), limit).solved or best
        return best

    def _mesh(self, entry: int) -> tuple[int, ...]:
        base = int(self.space.base_index[entry])
        return tuple(int(getattr(self.space.base, name)[base]) for name in AXES)
