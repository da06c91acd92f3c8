"""An independent check of a plan's stages: integer programs, built from the same costs and solved by another algorithm.

Mixes: for each stage, the knapsack of recompute_mix.py with whole numbers of layers as variables.

Partition: a 0/1 variable for each (stage, range of layers) with its cheapest mix. The ranges form a chain from the
first layer to the last. With the symbols of labels.py, every arm of every maximum there is linear in the variables. So

    minimise T + O    subject to    T >= tail_0 + each arm of each stage's path,    O >= optimizer of each stage

is exactly the bound that the labels take, and a lower bound on the least step of the entry.

Where shares may leave the device, the program of offload_program.py takes the place of both: it keeps the partition.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pulp

from shardwright.base import Array, IntArray, SpecError
from shardwright.costmodel import check_memory, estimate_plan
from shardwright.costmodel.op_times import OpTimes, op_times
from shardwright.costmodel.tables import layer_mixes
from shardwright.planner.mixes import MixSolver, OffloadMixSolver, Room
from shardwright.planner.space import SHARES, Fixed, enumerate_space, space_costs
from shardwright.planner.stages import (
    EntrySolver,
    StagedEntry,
    StageTables,
    allowed_ranges,
    evaluate,
    mix_solver,
    stage_bounds,
    stage_room,
    stage_tables,
    waiting_arms,
)
from shardwright.specs import ClusterSpec, Plan, TrainingSpec, splits_backward
from shardwright.specs.model import ModelSpec

from .integer_program import Solution, solve, variable
from .offload_program import OffloadProgram

_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Certificate:
    """The result of the integer programs: a bound on the plan's partition and mixes, with its other choices kept. Where shares may
    leave the device, a bound on these and the mixes, with the partition kept.

    Attributes:
        solver: name of the solver.
        step_seconds: the step of the plan's own partition and mixes.
        bound_seconds: lower bound on every partition and mix of this entry.
        optimal: whether the solver finished within its time; else the bound is what it had proven by then.
        mixes_agree: whether no stage of the plan has a cheaper mix that fits.
        seconds: duration of the check.
        placements: what may leave the device beside activations, so many ways of it; 0 where that is kept.
    """

    solver: str
    step_seconds: float
    bound_seconds: float
    optimal: bool
    mixes_agree: bool
    seconds: float
    placements: int = 0

    @property
    def gap(self) -> float:
        """Upper bound on the share of the step that a better partition might save."""
        return max(0.0, 1 - self.bound_seconds / self.step_seconds)


def certify(
    plan: Plan,
    model: ModelSpec,
    cluster: ClusterSpec,
    training: TrainingSpec,
    *,
    fixed: Fixed | None = None,
    times: OpTimes | None = None,
    time_limit_seconds: float = 30.0,
) -> Certificate:
    """Bound the plan's partition and check its mixes by integer programs.

    `fixed`: the choices that the search had to keep. Of these, only those of recomputation, even stages and shares that leave the
    device limit the partitions and mixes.

    Raises:
        SpecError: the plan has several stages on a rank, whose memories couple; its schedule splits the backward, which the
            paths of the program don't cover; or it does not divide its cluster.
        InfeasibleError: the plan does not fit.
    """
    started = time.perf_counter()
    if plan.stages_per_rank > 1:
        raise SpecError(f"a certificate is for plans with one stage on each rank; this one has {plan.stages_per_rank}")
    if splits_backward(plan.schedule):
        raise SpecError(f"a certificate is for 1f1b and gpipe, whose paths it knows; this plan has {plan.schedule}")
    times, model = times or op_times(cluster, training), model.trained_as(training.trainable)
    check_memory(estimate_plan(model, cluster, training, plan, times), cluster, times.constants)
    fixed = fixed or Fixed()
    if plan.activation_place or any(map(fixed.gives, SHARES)):
        return _offloading(plan, model, training, fixed, times, cluster, time_limit_seconds)
    mixes = tuple(limit for limit in fixed.within if limit.choice == "recompute")
    free = {"stages": None, "recompute": fixed.recompute, "even_stages": fixed.even_stages, "within": mixes}
    space = enumerate_space(model, cluster, training, Fixed.of(plan).but(**free))
    costs = space_costs(space, model, training, times)
    solver = EntrySolver.of(costs, model)
    tables = stage_tables(costs.entry(0), solver.ranges, solver.allowed)
    step = float(StagedEntry(tables.entry, solver.ranges).seconds(layer_mixes(model, plan.stages))[0])
    sizes = np.array([stage.layer_count for stage in plan.stages])
    solution = partition_program(tables, step, time_limit_seconds)
    agree = _mixes_agree(tables, solver.allowed, sizes, time_limit_seconds)
    best_mixes = step <= float(evaluate(tables, sizes[None])[0]) * (1 + _TOLERANCE)
    bound = min(solution.bound, step)
    return Certificate(
        solution.solver, step, bound, solution.optimal, agree and best_mixes, time.perf_counter() - started
    )


def _offloading(
    plan: Plan,
    model: ModelSpec,
    training: TrainingSpec,
    fixed: Fixed,
    times: OpTimes,
    cluster: ClusterSpec,
    time_limit_seconds: float,
) -> Certificate:
    """Bound what may leave the device and be recomputed in the plan's stages."""
    started, own = time.perf_counter(), Fixed.of(plan)
    within = tuple(limit for limit in fixed.within if limit.choice in ("recompute", *SHARES))
    resorts = ("offload_parameters", "offload_nvme")  # looked at only where nothing fits without
    free = {share: getattr(fixed, share) for share in SHARES if getattr(own, share) != 0 or share not in resorts}
    space = enumerate_space(
        model,
        cluster,
        training,
        own.but(stages=None, recompute=fixed.recompute, even_stages=fixed.even_stages, within=within, **free),
    )
    costs = space_costs(space, model, training, times)
    solver = EntrySolver.of(costs, model)
    mixes = layer_mixes(model, plan.stages)[0]
    entries = np.arange(len(space))
    solution = OffloadProgram(costs, entries, mixes.sum(axis=-1), solver.allowed).solve(
        time_limit_seconds=time_limit_seconds
    )
    step = estimate_plan(model, cluster, training, plan, times).step_seconds
    agree = solution.objective is None or step <= solution.objective * (1 + _TOLERANCE)
    bound = min(solution.bound, step)
    seconds = time.perf_counter() - started
    return Certificate(solution.solver, step, bound, solution.optimal, agree, seconds, len(space))


def partition_program(tables: StageTables, step_limit: float, time_limit_seconds: float) -> Solution:
    """Solve the 0/1 program over the ranges that may belong to a step of at most `step_limit`."""
    entry, ranges = tables.entry, tables.ranges
    active = tables.feasible & (stage_bounds(tables) <= step_limit * (1 + _TOLERANCE)) & allowed_ranges(entry, ranges)
    start, end = np.nonzero(ranges.kind_of >= 0)
    stage, place = np.nonzero(active[:, ranges.kind_of[start, end]])
    columns = _Columns(stage, start[place], end[place], ranges.kind_of[start, end][place])
    problem = pulp.LpProblem("partition", pulp.LpMinimize)
    chosen = np.array([variable(problem, f"column_{index}", kind="Binary") for index in range(len(stage))])
    step, optimizer = variable(problem, "step"), variable(problem, "optimizer")
    problem += step + optimizer
    for inner in range(entry.pp):
        problem += pulp.lpSum(chosen[stage == inner]) == 1
        problem += optimizer >= _dot(tables.seconds.optimizer[inner, columns.kind] * (stage == inner), chosen)
        for constant, weights in _paths(tables, columns, inner):
            problem += step >= constant + _dot(weights, chosen)
    for inner in range(entry.pp - 1):
        for cut in range(ranges.layer_count + 1):
            ends_here = chosen[(stage == inner) & (columns.end == cut)]
            starts_here = chosen[(stage == inner + 1) & (columns.start == cut)]
            if len(ends_here) or len(starts_here):
                problem += pulp.lpSum(ends_here) == pulp.lpSum(starts_here)
    for edge in ((stage == 0) & (columns.start > 0), (stage == entry.pp - 1) & (columns.end < ranges.layer_count)):
        problem += pulp.lpSum(chosen[edge]) == 0
    return solve(problem, time_limit_seconds=time_limit_seconds)


class _Columns(NamedTuple):
    """The 0/1 variables (C,): stage, first layer, last layer + 1, kind of range."""

    stage: IntArray
    start: IntArray
    end: IntArray
    kind: IntArray


def _paths(tables: StageTables, columns: _Columns, stage: int) -> Iterator[tuple[float, Array]]:
    """Yield each arm of the path that waits at `stage`: constant seconds, and seconds (C,) of each chosen column."""
    entry, seconds = tables.entry, tables.seconds
    forward, backward, extra, tail = (
        values[columns.stage, columns.kind]
        for values in (seconds.forward, seconds.backward, seconds.first_forward_extra, tables.least_tail)
    )
    here, below = columns.stage == stage, columns.stage > stage
    hop = 2 * float(entry.rows.send)
    once = np.where(columns.stage <= stage, forward + backward + extra, 0.0) + np.where(columns.stage == 0, tail, 0.0)
    trip, first_trip = np.where(below, forward + backward, 0.0), np.where(below, forward + backward + extra, 0.0)
    back = hop * (entry.pp - 1 - stage)
    for arm in waiting_arms(entry.schedule, entry.pp, stage, entry.microbatches):
        waits = arm.first_trip * first_trip + arm.trip * trip
        own = (arm.forwards * forward + arm.backwards * backward) * here
        yield hop * stage + (arm.first_trip + arm.trip) * back, once + waits + own


def _mixes_agree(tables: StageTables, allowed: list[int], sizes: IntArray, time_limit_seconds: float) -> bool:
    """Whether the table's mix of every stage costs as much as the solution of its knapsack as an integer program."""
    kinds = tables.ranges.kinds(sizes)
    solver = mix_solver(tables.entry, allowed)
    room = stage_room(tables.entry, tables.ranges.counts)
    for stage, kind in enumerate(kinds):
        counts = tables.ranges.counts[kind]
        mine = float((tables.mix[stage, kind] * solver.seconds).sum())
        other = _mix(counts, solver, room, (stage, int(kind)), time_limit_seconds)
        if other.objective is None or abs(other.objective - mine) > _TOLERANCE * mine:
            return False
    return True


def _mix(
    counts: IntArray,
    solver: MixSolver | OffloadMixSolver,
    room: Room,
    place: tuple[int, int],
    time_limit_seconds: float,
) -> Solution:
    """Find the cheapest mix of one stage. Bytes are fractions of its room, as solvers want numbers near 1."""
    stage, kind = place
    whole, alive = float(room.moving[stage, kind]), float(room.alive[stage])
    problem = pulp.LpProblem("mix", pulp.LpMinimize)
    working = variable(problem, "working", float(room.end_working[stage]) / whole)
    cost, kept = [], [alive * float(room.end_kept[stage]) / whole]
    for row, held in enumerate(counts):
        layers = [
            variable(problem, f"layers_{row}_{p}", 0, int(held), kind="Integer") for p in range(solver.kept.shape[1])
        ]
        problem += pulp.lpSum(layers) == int(held)
        for policy, number in enumerate(layers):
            used = variable(problem, f"used_{row}_{policy}", kind="Binary")
            problem += number <= (int(held) if policy in solver.allowed else 0) * used
            problem += working >= float(solver.working[row, policy]) / whole * used
            cost.append(float(solver.seconds[row, policy]) * number)
            kept.append(alive * float(solver.kept[row, policy]) / whole * number)
    problem += pulp.lpSum(cost)
    problem += pulp.lpSum(kept) + working <= 1
    return solve(problem, time_limit_seconds=time_limit_seconds)


def _dot(weights: Array, chosen: Array) -> Any:
    return pulp.lpSum(float(weight) * one for weight, one in zip(weights, chosen, strict=True) if weight)
