"""A short list of other plans: none of them is slower, fuller and less simple at once than another one or the chosen plan.

It holds the fastest plan, the simplest within 10% of it, and the one within 10% that leaves most memory free.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.costmodel.tables import usable_bytes
from shardwright.planner.bounds import lower_bounds
from shardwright.planner.space import BY_CHUNK
from shardwright.planner.stages import EntrySolver, Solved, plan_of
from shardwright.specs import ClusterSpec, TrainingSpec
from shardwright.specs.model import ModelSpec

from .branch_and_bound import BranchAndBound
from .portfolio import Found, Portfolio
from .result import TradeOff
from .simplest import complexity, simplest

WITHIN = 0.10

# These limit work, not time, so that repeated runs find the same plans.
_MOST_LOOKED_AT = 256
_MOST_BOUNDED = 96
_HALVINGS = 3
_MOST_SOLVED = 2

# Less is not worth a line: a share of the usable memory, and of the step.
_MORE_FREE = 0.02
_LESS_TIME = 0.0005


def trade_offs(
    portfolio: Portfolio,
    chosen: Found,
    model: ModelSpec,
    cluster: ClusterSpec,
    training_of: Callable[[Found], TrainingSpec],
) -> tuple[TradeOff, ...]:
    """Return the list for a finished `portfolio`, without the plan that was `chosen` and what it is as good as in every way.

    The plan that leaves most memory free is looked for with the training spec of the chosen one. `training_of` gives the training
    spec of a plan.
    """
    assert portfolio.best is not None
    within = f"within {WITHIN:.0%}"
    most_seconds = portfolio.best.solved.step_seconds * (1 + WITHIN)
    roomiest = _roomiest(chosen.variant.run, most_seconds)
    named = {
        "fastest": portfolio.best,
        f"simplest {within}": simplest(portfolio, WITHIN, most_looked_at=_MOST_LOOKED_AT),
        f"most free memory {within}": None if roomiest is None else Found(chosen.variant, roomiest),
    }

    def rated_as(names: tuple[str, ...], found: Found) -> _Rated:
        return _rated(portfolio, names, found, model, cluster, training_of(found))

    mine = rated_as((), chosen)
    found: list[_Rated] = []
    for (name, other), better in zip(named.items(), (_Rated.faster, _Rated.simpler, _Rated.freer), strict=True):
        rated = None if other is None else rated_as((name,), other)
        if rated is None or not better(rated, mine):
            continue
        same = [place for place, other in enumerate(found) if other.is_as(rated)]
        if same:
            found[same[0]] = found[same[0]].also(name)
        else:
            found.append(rated)
    return tuple(
        one.shown for one in found if not any(other.dominates(one) for other in (mine, *found) if other is not one)
    )


@dataclass(frozen=True)
class _Rated:
    """A plan by what it trades: seconds, bytes free, and the order of simplicity."""

    shown: TradeOff
    complexity: tuple[int, int, bool]
    usable_bytes: float

    def also(self, name: str) -> "_Rated":
        return replace(self, shown=replace(self.shown, names=(*self.shown.names, name)))

    def is_as(self, other: "_Rated") -> bool:
        return (self.shown.plan, self.shown.training) == (other.shown.plan, other.shown.training)

    def faster(self, other: "_Rated") -> bool:
        return self.shown.estimate.step_seconds < other.shown.estimate.step_seconds * (1 - _LESS_TIME)

    def simpler(self, other: "_Rated") -> bool:
        return self.complexity < other.complexity

    def freer(self, other: "_Rated") -> bool:
        return self.shown.free_bytes > other.shown.free_bytes + _MORE_FREE * self.usable_bytes

    def dominates(self, other: "_Rated") -> bool:
        """Whether the other plan is better in none of the three."""
        return not (other.faster(self) or other.simpler(self) or other.freer(self))


def _rated(
    portfolio: Portfolio,
    names: tuple[str, ...],
    found: Found,
    model: ModelSpec,
    cluster: ClusterSpec,
    training: TrainingSpec,
) -> _Rated:
    run = found.variant.run
    plan = plan_of(found.solved, run.space, model)
    estimate = run.estimate(model, cluster, training, plan)
    usable = usable_bytes(cluster.node.device, run.times.constants)
    free = usable - estimate.peak_memory_bytes
    return _Rated(TradeOff(names, plan, estimate, free, training), complexity(portfolio, found), usable)


def _roomiest(run: BranchAndBound, most_seconds: float) -> Solved | None:
    """Return a plan of at most `most_seconds` that leaves most memory free; None where stages are given.

    The room of all devices is halved in turn, and for each room the entries with the lowest bounds are solved. Only the entries
    that need least memory by a rough sum are looked at.
    """
    solver, usable = run.solver, usable_bytes(run.times.node.device, run.times.constants)
    if solver.given is not None:
        return None
    near = run.entries.within(most_seconds)
    near = near[~np.isin(solver.costs.space.schedule[near], BY_CHUNK)]  # which keep every microbatch alive
    near = near[np.argsort(_rough_bytes(solver, near), kind="stable")][:_MOST_BOUNDED]
    best: Solved | None = None
    taken, step = 0.0, 0.5
    for _ in range(_HALVINGS):
        room = solver.costs.room_bytes - (taken + step) * usable
        smaller = replace(solver, costs=replace(solver.costs, room_bytes=np.maximum(room, 1.0)))
        solved = _first_within(smaller, near, most_seconds)
        if solved is not None:
            best, taken = solved, taken + step
        step /= 2
    return best


def _first_within(solver: EntrySolver, entries: IntArray, most_seconds: float) -> Solved | None:
    bounds = lower_bounds(solver.costs, solver.ranges, solver.allowed, entries)
    order = np.argsort(np.round(np.log(np.maximum(bounds, 1e-300)), 11), kind="stable")
    for place in order[:_MOST_SOLVED]:
        if not bounds[place] <= most_seconds:
            return None
        solved = solver.solve(int(entries[place]), float(bounds[place]), most_seconds).solved
        if solved is not None:
            return solved
    return None


def _rough_bytes(solver: EntrySolver, entries: IntArray) -> Array:
    """(A,): bytes of the mean rank with the least activations, those of the first rank's microbatches; to order `entries` by."""
    bases, place = np.unique(solver.costs.space.base_index[entries], return_inverse=True)
    rows, base, whole = solver.costs.rows[bases], solver.costs.space.base[bases], solver.ranges.whole
    kept = rows.activation.cheapest(solver.allowed).layers @ whole
    each = (rows.static.of_model(whole) + kept * np.minimum(base.pp, base.microbatches)) / base.pp
    return np.asarray(each - solver.costs.room_bytes[bases])[place]
