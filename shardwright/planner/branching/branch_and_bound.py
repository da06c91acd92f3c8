"""Branch and bound over the space: entries are solved by their bound, until none is below the best plan found."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Self

import numpy as np

from shardwright.base import Array
from shardwright.costmodel import estimate_plan
from shardwright.costmodel.op_times import OpTimes
from shardwright.planner.space import Fixed, Space, enumerate_space, space_costs
from shardwright.planner.stages import EntrySolver, Solved
from shardwright.specs import AXES, ClusterSpec, Estimate, Plan, TrainingSpec
from shardwright.specs.model import ModelSpec

from .open_entries import OpenEntries

Progress = Callable[[int, int, float], None]
_ROUNDING = 1e-9
_SOLVED_FOR_RUNNER_UP = 24


@dataclass
class BranchAndBound:
    """One search for plans below `ceiling` seconds. Entries that don't fit the memory are never solved."""

    solver: EntrySolver
    entries: OpenEntries
    times: OpTimes
    ceiling: float = np.inf
    best: Solved | None = None
    solved: int = 0
    complete: bool = True
    _open_bound: float = np.inf
    _solved_below: dict[int, float] = field(default_factory=dict)  # an entry, and the limit when it was solved

    @classmethod
    def start(
        cls, model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed, times: OpTimes
    ) -> Self:
        """Enumerate the space and bound its entries.

        Raises:
            SpecError: nothing divides, or the fixed choices contradict each other.
        """
        model = model.trained_as(training.trainable)
        return cls.over(enumerate_space(model, cluster, training, fixed), model, training, times)

    @classmethod
    def over(cls, space: Space, model: ModelSpec, training: TrainingSpec, times: OpTimes) -> Self:
        """Price and bound the entries of a space."""
        solver = EntrySolver.of(space_costs(space, model, training, times), model)
        return cls(solver, OpenEntries.of(solver), times)

    def among(self, entries: Array) -> "BranchAndBound":
        """Return a search over only those entries (N,) that are true."""
        return BranchAndBound(self.solver, self.entries.among(entries), self.times)

    def again(self, ceiling: float) -> "BranchAndBound":
        """Return a new search over the same entries, for plans below `ceiling` seconds. Bounds that are sharp stay so."""
        return BranchAndBound(self.solver, self.entries, self.times, ceiling)

    @property
    def space(self) -> Space:
        return self.solver.costs.space

    def estimate(self, model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, plan: Plan) -> Estimate:
        """Estimate a plan with the operation times of this search."""
        return estimate_plan(model, cluster, training, plan, self.times)

    def run(
        self,
        time_limit_seconds: float = np.inf,
        progress: Progress | None = None,
        *,
        most_solved: float = np.inf,
        most_tried: float = np.inf,
    ) -> None:
        """Search until no open bound is below the best plan, the time is up, or `most_solved` entries are solved.

        The time limit takes effect once there is a plan or a ceiling, `most_solved` once there is a plan. `most_tried` entries
        end the search before it, too.
        """
        deadline = time.perf_counter() + time_limit_seconds
        if np.isfinite(self._limit) and time_limit_seconds <= 0:
            self.complete, self._open_bound = self.entries.lowest() >= self._limit, self.entries.lowest()
            return
        for entry in self.entries.ascending(lambda: self._limit * (1 - _ROUNDING)):
            bound = self.entries.bound(entry)
            late = np.isfinite(self._limit) and time.perf_counter() > deadline
            enough = self.solved >= most_tried or (self.best is not None and self.solved >= most_solved)
            if late or enough:
                self.complete, self._open_bound = False, min(self._open_bound, bound)
                return
            self._solve(entry, bound)
            if progress is not None:
                progress(self.solved, self.entries.left(self.solved), self._limit)
        if np.isinf(most_solved):
            self._solve_again(deadline)

    def _solve_again(self, deadline: float) -> None:
        """Solve entries again that were left with a gap: a lower limit leaves fewer partitions, which may all be ruled out."""
        for entry, below in list(self._solved_below.items()):
            if time.perf_counter() > deadline:
                return
            bound = self.entries.bound(entry)
            if bound < self._limit * (1 - _ROUNDING) and self._limit < below:
                self._solve(entry, bound)

    def bound_seconds(self) -> float:
        """Lower bound on every plan of the space, in seconds."""
        solved = (self.entries.bound(entry) for entry in self._solved_below)
        return min(self._open_bound, self._limit, *solved)

    def other_meshes(self, count: int, chosen: Solved) -> list[Solved]:
        """Return the best plans, with one stage on each rank and whole backwards, of `count` meshes, fastest first: those whose
        such entries have the lowest bounds, but for the meshes of the best plan and of `chosen`."""
        if not count:
            return []
        tried = {self._mesh(chosen.entry), *([self._mesh(self.best.entry)] if self.best else [])}
        found: list[Solved] = []
        for entry in self.entries.among(self.space.plain).ascending():
            mesh = self._mesh(entry)
            if mesh not in tried:
                tried.add(mesh)
                solved = self._best_of_mesh(mesh)
                found += [solved] if solved is not None else []
            if len(found) == count:
                break
        return sorted(found, key=lambda solved: solved.step_seconds)

    @property
    def _limit(self) -> float:
        return self.ceiling if self.best is None else self.best.step_seconds

    def _solve(self, entry: int, bound: float) -> None:
        self.solved += entry not in self._solved_below
        self._solved_below[entry] = self._limit
        outcome = self.solver.solve(entry, bound, self._limit)
        self.entries.raise_bound(entry, min(outcome.bound_seconds, self._limit))
        if outcome.solved is not None:
            self.best = outcome.solved

    def _best_of_mesh(self, mesh: tuple[int, ...]) -> Solved | None:
        same = np.all([self.space.column(name) == degree for name, degree in zip(AXES, mesh, strict=True)], axis=0)
        best: Solved | None = None

        def limit() -> float:
            return np.inf if best is None else best.step_seconds

        entries = self.entries.among(same & self.space.plain)
        for entry in islice(entries.ascending(limit), _SOLVED_FOR_RUNNER_UP):
            best = self.solver.solve(entry, entries.bound(entry), limit()).solved or best
        return best

    def _mesh(self, entry: int) -> tuple[int, ...]:
        base = int(self.space.base_index[entry])
        return tuple(int(getattr(self.space.base, name)[base]) for name in AXES)
