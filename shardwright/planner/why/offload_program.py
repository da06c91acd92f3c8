"""What leaves the device and what is recomputed, as one mixed-integer program over the stages of a plan. docs/offload.md states it.

It is built from the same cost tables as the search and solved by another algorithm. The plan's mesh, ZeRO stage, microbatch, schedule
and partition are kept.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pulp

from shardwright.base import Array, IntArray
from shardwright.planner.space import EntryCosts, SpaceCosts
from shardwright.planner.stages import stage_room, waiting_arms

from .integer_program import Solution, SolverName, solve, variable


@dataclass(frozen=True)
class OffloadProgram:
    """The program over placements (F) of one plan: entries of `costs` that differ in nothing else.

    `layers` (S, K): layers of each class on every stage, with one stage on each rank. `allowed`: indices of strategies (P).
    """

    costs: SpaceCosts
    entries: IntArray
    layers: IntArray
    allowed: list[int]

    def solve(
        self, *, relaxed: bool = False, solver: SolverName | None = None, time_limit_seconds: float = 30.0
    ) -> Solution:
        """Minimise the step in seconds. `relaxed`: whole numbers may be fractions, so that the result is a lower bound."""
        problem = pulp.LpProblem("offload", pulp.LpMinimize)
        step, optimizer = variable(problem, "step", 0), variable(problem, "optimizer", 0)
        problem += step + optimizer
        parts = [
            _Placement(problem, index, self.costs.entry(int(entry)), self.layers, self.allowed, relaxed)
            for index, entry in enumerate(self.entries)
        ]
        parts = [part for part in parts if part.fits]
        if not parts:
            return Solution("none", None, np.inf, True)
        problem += pulp.lpSum(part.chosen for part in parts) == 1
        for part in parts:
            part.constrain()
        scale = self._scale(parts)
        paths = zip(*(part.paths() for part in parts), strict=True)
        for of_parts in paths:
            problem += step >= pulp.lpSum(of_parts) * (1 / scale)
        for stage in range(len(self.layers)):
            seconds = [float(part.optimizer[stage]) / scale * part.chosen for part in parts]
            problem += optimizer >= pulp.lpSum(seconds)
        found = solve(problem, time_limit_seconds=time_limit_seconds, solver=solver)
        objective = None if found.objective is None else found.objective * scale
        return Solution(found.solver, objective, found.bound * scale, found.optimal)

    def _scale(self, parts: list["_Placement"]) -> float:
        """Seconds of a fast step, since solvers want numbers near 1."""
        return min(part.least_seconds for part in parts)


@dataclass
class _Placement:
    """The variables and constraints of one placement."""

    problem: Any
    index: int
    entry: EntryCosts
    layers: IntArray
    allowed: list[int]
    relaxed: bool

    def __post_init__(self) -> None:
        """Make the variables: whether it is chosen, and the layers of each stage and class under each strategy."""
        kind = "Continuous" if self.relaxed else "Binary"
        self.chosen = variable(self.problem, f"chosen_{self.index}", 0, 1, kind=kind)
        self.counts: dict[tuple[int, int, int], Any] = {}
        if self.fits:
            whole = "Continuous" if self.relaxed else "Integer"
            for stage, kind_, strategy in self._places():
                name, most = f"layers_{self.index}_{stage}_{kind_}_{strategy}", int(self.layers[stage, kind_])
                self.counts[stage, kind_, strategy] = variable(self.problem, name, 0, most, kind=whole)

    def _places(self) -> Iterator[tuple[int, int, int]]:
        for stage, of_stage in enumerate(self.layers):
            for kind, held in enumerate(of_stage):
                if held:
                    yield from ((stage, kind, strategy) for strategy in self.allowed)

    @cached_property
    def _room(self) -> Any:
        return stage_room(self.entry, self.layers)

    @cached_property
    def _moving(self) -> Array:
        """(S,): bytes for activations and working memory; minus infinity where something else does not fit."""
        return np.diagonal(self._room.moving)

    @cached_property
    def fits(self) -> bool:
        """Whether every stage has room for any activations; the drives, and the host for what is there over the step."""
        return bool((self._moving > 0).all())

    @cached_property
    def least_seconds(self) -> float:
        rows, held = self.entry.rows, self.layers.sum(axis=0)
        each = rows.forward.layers + rows.backward.layers[:, self.allowed].min(axis=1)
        return float(self.entry.microbatches * (held @ each) / self.entry.pp)

    @cached_property
    def optimizer(self) -> Array:
        """(S,): seconds of the update."""
        return np.asarray(self.entry.rows.optimizer.total(self.layers, self.entry.ends))

    def constrain(self) -> None:
        """Every layer has a strategy where the placement is chosen, and every stage fits its device and its host."""
        for stage, of_stage in enumerate(self.layers):
            for kind, held in enumerate(of_stage):
                if held:
                    layers = [self.counts[stage, kind, strategy] for strategy in self.allowed]
                    self.problem += pulp.lpSum(layers) == int(held) * self.chosen
            self._device(stage)
            self._host(stage)

    def _device(self, stage: int) -> None:
        rows, room, whole = self.entry.rows, self._room, float(self._moving[stage])
        alive, working = float(room.alive[stage]), variable(self.problem, f"working_{self.index}_{stage}", 0)
        self.problem += working >= float(room.end_working[stage]) / whole * self.chosen
        kept = [alive * float(room.end_kept[stage]) / whole * self.chosen]
        for kind, strategy, count in self._of(stage):
            used = variable(
                self.problem,
                f"used_{self.index}_{stage}_{kind}_{strategy}",
                0,
                1,
                kind="Continuous" if self.relaxed else "Binary",
            )
            self.problem += count <= int(self.layers[stage, kind]) * used
            self.problem += working >= float(rows.working.layers[kind, strategy]) / whole * used
            kept.append(alive * float(rows.activation.layers[kind, strategy]) / whole * count)
        self.problem += pulp.lpSum(kept) + working <= self.chosen

    def _host(self, stage: int) -> None:
        rows, left = self.entry.rows, float(self._room.host[stage, stage])
        if rows.host_activation is None:
            return
        alive, on_host = float(self._room.alive[stage]), rows.host_activation.layers
        kept = [alive * float(on_host[kind, strategy]) * count for kind, strategy, count in self._of(stage)]
        if any(alive * float(on_host[kind, strategy]) > 0 for kind, strategy, _ in self._of(stage)):
            whole = max(left, 1.0)
            self.problem += pulp.lpSum(kept) * (1 / whole) <= left / whole * self.chosen

    def _of(self, stage: int) -> Iterator[tuple[int, int, Any]]:
        return ((kind, strategy, count) for (at, kind, strategy), count in self.counts.items() if at == stage)

    def paths(self) -> Iterator[Any]:
        """Yield seconds of each path that waits at a stage for all microbatches, goes back to it or a stage before, and ends with the
        tail of reductions there; in the order of stages, arms and ends."""
        entry, pp = self.entry, self.entry.pp
        forward, extra = (
            rows.total(self.layers, entry.ends) for rows in (entry.rows.forward, entry.rows.first_forward)
        )
        send, place = float(entry.rows.send), np.arange(pp)
        for stage in range(pp):
            for arm in waiting_arms(entry.schedule, pp, stage, entry.microbatches):
                trips = arm.first_trip + arm.trip
                forwards = np.where(place > stage, trips, 1.0)
                forwards[stage] += arm.forwards
                extras = np.where(place > stage, arm.first_trip, 1.0)
                passes = float(forwards @ forward + extras @ extra) + 2 * send * trips * (pp - 1 - stage)
                for last in range(stage + 1):
                    backwards = np.where(place > stage, trips, np.where(place < last, 0.0, 1.0))
                    backwards[stage] += arm.backwards
                    constant = passes + send * (2 * stage - last)
                    yield constant * self.chosen + self._backwards(backwards, last)

    def _backwards(self, times: Array, last: int) -> Any:
        """Seconds of so many backwards of each stage, and of the tail of reductions of the `last` one."""
        rows, parts = self.entry.rows, []
        for (stage, kind, strategy), count in self.counts.items():
            each = float(times[stage] * rows.backward.layers[kind, strategy])
            if stage == last:
                each += float(rows.last_backward.layers[kind, strategy])
            parts.append(each * count)
        ends = float(times @ (self.entry.ends * rows.backward.ends).sum(axis=1))
        ends += float((self.entry.ends[last] * rows.last_backward.ends).sum())
        return pulp.lpSum(parts) + ends * self.chosen
