"""The best split of a batch over the replicas of several groups, for one kind of replica (replica_space.py).

f_g(b, m) is the step of group g with m microbatches of b sequences, by its best stages. It never falls with m. So it is known to be
above a limit from some m on, once one such m is found, and every split with a group beyond that is ruled out. Steps that are not
known yet are guessed to grow by the rate of the group, which only decides what is tried first.
"""

import time
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.planner.space import Space, layer_ranges
from shardwright.planner.stages import CriticalPaths, EntrySolver, Solved

from .replica_space import ReplicaSpace

_ROUNDING = 1e-9
_BESIDE = 2  # numbers of microbatches beside one that are priced with it


class GroupPart(NamedTuple):
    """The stages of one group's replicas, solved in a space that has its number of microbatches."""

    solved: Solved
    space: Space


@dataclass
class _Sizes:
    """One group with one micro batch of `size` sequences: what is known of its step with m microbatches.

    `open` counts the m, from 1 on, that are not ruled out. `known`: seconds and solution by m. `guess`: a point (m, seconds), and
    seconds of one more microbatch.
    """

    group: int
    entry: int
    size: int
    open: int
    each: float
    guess: tuple[int, float]
    known: dict[int, tuple[float, GroupPart]] = field(default_factory=dict)

    def guessed(self) -> Array:
        """(open,): seconds of 1, 2, ... microbatches, those that are known and guesses for others."""
        at, seconds = self.guess
        found = seconds + (np.arange(1, self.open + 1) - at) * self.each
        for m, (known, _) in self.known.items():
            if m <= self.open:
                found[m - 1] = known
        return np.asarray(found)


class Split(NamedTuple):
    """A split of the batch: the step, and the part of each group."""

    step_seconds: float
    parts: tuple[GroupPart, ...]


@dataclass
class SplitSearch:
    """The search for the best split of one kind below `limit` seconds.

    `bound_seconds`: lower bound on what was ruled out without proof, where the stages of an entry were not searched to the end.
    """

    space: ReplicaSpace
    entries: IntArray
    limit: float
    paths: dict[tuple[object, ...], CriticalPaths]
    best: Split | None = None
    bound_seconds: float = np.inf
    solved: int = 0
    _solvers: dict[tuple[int, int, int], tuple[EntrySolver, int]] = field(default_factory=dict)

    def run(self, bounds: Array, deadline: float = np.inf) -> bool:
        """Search; False where the time is up before all splits are ruled out, and there is a limit. `bounds` (G, E): seconds that each
        entry takes at least with its `balanced` number of microbatches."""
        sizes = [size for group in self.space.groups for size in self._sizes(group, bounds[group])]
        while True:
            split = self._least(sizes)
            if split is None:
                return True
            if np.isfinite(self.limit) and time.perf_counter() > deadline:
                return False
            self._look_at(split)

    def _sizes(self, group: int, bounds: Array) -> list[_Sizes]:
        """The micro batches of one group, with what the bounds rule out."""
        found, rates = [], self.space.rates[group]
        for entry, bound in zip(self.entries.tolist(), bounds.tolist(), strict=True):
            most, at = int(self.space.most[group][entry]), int(self.space.balanced[group][entry])
            each, start = float(rates.each[entry]), float(rates.start[entry])
            if not np.isfinite(start) or most < 1:
                continue
            within = int(min(most, (self.limit - start) / each))
            within = min(within, at - 1) if bound >= self.limit * (1 - _ROUNDING) else within
            if within >= 1:
                guess = (at, bound) if np.isfinite(bound) else (0, start)
                size = int(self.space.space.column("micro_batch")[entry])
                found.append(_Sizes(group, entry, size, within, each, guess))
        return found

    def _least(self, sizes: list[_Sizes]) -> "list[tuple[_Sizes, int]] | None":
        """The split whose slowest group takes least by what is known and guessed; None where none is open.

        T_g(n), the least for n sequences in the groups up to g, is the least over n_g of max(T_(g-1)(n - c_g n_g), seconds of g).
        """
        whole, groups = int(self.space.sequences[self.entries[0]]), list(self.space.groups)
        counts = [int(self.space.replicas[group][self.entries[0]]) for group in groups]
        each = [_of_sequences([one for one in sizes if one.group == g], whole // counts[g]) for g in groups]
        best = np.full(whole + 1, np.inf)
        best[0] = 0.0
        behind = []
        for group in groups[:-1]:
            behind.append(best)
            best = _joined(best, each[group][0], counts[group])
        found, left = list[tuple[_Sizes, int]](), whole
        for group in reversed(groups):
            before, seconds = [*behind, best][group], each[group][0]
            taken = np.arange(left // counts[group] + 1)
            step = np.maximum(before[left - counts[group] * taken], seconds[taken])
            sequences = int(step.argmin())
            if not np.isfinite(step[sequences]):
                return None
            left -= counts[group] * sequences
            size = each[group][1][sequences]
            found.insert(0, (size, sequences // size.size))
        return found

    def _look_at(self, split: "list[tuple[_Sizes, int]]") -> None:
        """Solve the part of a split that is guessed to take longest of those not known, or take the split where all are known."""
        unknown = [(size, m) for size, m in split if m not in size.known]
        if not unknown:
            known = [size.known[m] for size, m in split]
            self.limit = max(seconds for seconds, _ in known)
            self.best = Split(self.limit, tuple(part for _, part in known))
            for size, _ in split:
                self._rule_out(size)
            return
        size, m = max(unknown, key=lambda one: one[0].guessed()[one[1] - 1])
        guessed = size.guessed()
        if guessed[m - 1] >= self.limit:  # fewer microbatches that take as long rule out more
            m = next(fewer for fewer in range(1, m + 1) if guessed[fewer - 1] >= self.limit)
        self._solve(size, m)

    def _solve(self, size: _Sizes, m: int) -> None:
        solver, place = self._solver(size, m)
        self.solved += 1
        outcome = solver.solve(place, 0.0, self.limit)
        if outcome.solved is None:
            self.bound_seconds = min(self.bound_seconds, outcome.bound_seconds)
            size.open = min(size.open, m - 1)
            size.guess = (m, max(self.limit, size.guessed()[m - 1] if m <= size.open else 0.0))
            return
        seconds = outcome.solved.step_seconds
        if outcome.bound_seconds < seconds * (1 - _ROUNDING):  # a step that may be shorter by this share
            self.bound_seconds = min(self.bound_seconds, self.limit * outcome.bound_seconds / seconds)
        size.known[m] = seconds, GroupPart(outcome.solved, solver.costs.space)
        size.guess = (m, seconds)
        self._rule_out(size)

    def _rule_out(self, size: _Sizes) -> None:
        """Leave out what is known to take as long as the limit."""
        late = [m for m, (seconds, _) in size.known.items() if seconds >= self.limit * (1 - _ROUNDING)]
        size.open = min([size.open, *(m - 1 for m in late)])

    def _solver(self, size: _Sizes, m: int) -> tuple[EntrySolver, int]:
        """A solver that has the entry with m microbatches, and its place there."""
        key = size.group, size.entry
        if (*key, m) not in self._solvers:
            near = np.arange(max(1, m - _BESIDE), min(size.open, m + _BESIDE) + 1)
            near = near if m in near else np.append(near, m)
            costs = self.space.priced(size.group, np.full(len(near), size.entry), near)
            solver = EntrySolver(costs, layer_ranges(self.space.model), self.space.allowed, paths=self.paths)  # type: ignore[arg-type]
            self._solvers |= {(*key, int(other)): (solver, place) for place, other in enumerate(near)}
        return self._solvers[(*key, m)]


def _joined(before: Array, seconds: Array, count: int) -> Array:
    """(N + 1,): the least time of groups that take 0, 1, ... sequences together: `before` (N + 1,), and one more of `count` replicas."""
    if np.isfinite(before).sum() == 1:  # the first group
        found = np.full(len(before), np.inf)
        found[count * np.arange(len(seconds))] = seconds
        return found
    found = np.full(len(before), np.inf)
    for sequences in np.flatnonzero(np.isfinite(seconds)).tolist():
        taken = count * sequences
        found[taken:] = np.minimum(found[taken:], np.maximum(before[: len(before) - taken], seconds[sequences]))
    return found


def _of_sequences(sizes: list[_Sizes], most: int) -> tuple[Array, dict[int, _Sizes]]:
    """(most + 1,): the least seconds of a group with 0, 1, ... sequences for each rank, and the micro batch of each."""
    seconds, by = np.full(most + 1, np.inf), dict[int, _Sizes]()
    for size in sizes:
        places = size.size * np.arange(1, min(size.open, most // size.size) + 1)
        guessed = size.guessed()[: len(places)]
        for place in places[guessed < seconds[places]].tolist():
            by[place] = size
        seconds[places] = np.minimum(seconds[places], guessed)
    return seconds, by
