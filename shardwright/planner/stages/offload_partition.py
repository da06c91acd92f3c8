"""The best partition where activations may go to the host, with one stage on each rank.

The mixes of offload_mix.py come with a lower bound, so the partition's bound is that of tables with the least backwards.

The tail of reductions behind the last backward depends on the mix more than elsewhere: copies to the host delay it. With b and t,
the backward and the tail of the first rank, every path that waits at a stage for all microbatches takes

    C_s + b + t    at a later stage s,    C_0 + k b + t    with k >= W at the first

So no mix of the first rank has a step below x (C_s + b + t) + (1 - x) (C_0 + W b + t) for x in [0, 1]. With w = x + (1 - x) W
the least of w b + t over all mixes is another relaxation of offload_mix.py. The mixes with the least w b + t, and those between two
of them, are the ones to try.
"""

from dataclasses import dataclass, replace
from functools import reduce
from itertools import combinations

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.costmodel.tables import Rows, StageSeconds, stage_seconds
from shardwright.planner.mixes import OffloadMixSolver
from shardwright.planner.space import EntryCosts, LayerRanges

from .critical_paths import CriticalPaths
from .partition import Partition, allowed_ranges, best_partition, compositions, evaluate, stage_bounds, ways_to_hold
from .paths import Arm, waiting_arms
from .staged_entry import StagedEntry
from .tables import StageTables, mix_solver, stage_room, stage_tables

# More partitions than this are bounded by their ranking alone.
_MOST_BOUNDED = 2048
_CLOSED = 1e-9
_WEIGHTS = (1, 2, 4, 6, 9, 14, 24, 48, 128)


@dataclass(frozen=True)
class OffloadPartition:
    """Partitions of one entry. `best` returns the best below a limit, its mixes (S, classes, strategies), and a bound on all."""

    entry: EntryCosts
    ranges: LayerRanges
    allowed: list[int]
    paths: CriticalPaths

    def best(self, limit_seconds: float) -> tuple[Partition | None, IntArray | None, float]:
        """Return the best partition below `limit_seconds`, if any was found, its mixes, and a lower bound on all that fit."""
        tables = stage_tables(self.entry, self.ranges, self.allowed, self._wanted(limit_seconds))
        bound = self._bound(tables.lower, limit_seconds)
        if bound >= limit_seconds:
            return None, None, bound
        found = best_partition(tables, limit_seconds, self.paths)
        mix, variants = None if found is None else self._mix(tables, found), [tables]
        near = stage_bounds(tables.lower)[0] < (limit_seconds if found is None else found.step_seconds)
        kinds = np.flatnonzero(tables.lower.feasible[0] & near)
        for weight in self._weights if len(kinds) else ():
            variants.append(self._with_short_tail(tables, weight, kinds))
            partition = best_partition(variants[-1], limit_seconds if found is None else found.step_seconds, self.paths)
            if partition is not None and (found is None or partition.step_seconds < found.step_seconds):
                found, mix = partition, self._mix(variants[-1], partition)
        step = np.inf if found is None else found.step_seconds
        bound = min(self._bound(tables.lower, min(step, limit_seconds)), step)
        if found is not None and mix is not None and bound < found.step_seconds * (1 - _CLOSED):
            found, mix = self._between(found, mix, [self._mix(tried, found) for tried in variants])
        return found, mix, bound

    def _wanted(self, limit_seconds: float) -> Array:
        """(S, V): the ranges that a stage may hold in a step below the limit, if memory did not matter."""
        rows, counts, ends = self.entry.rows, self.ranges.counts, self.entry.ends[:, None]
        fastest = Rows(rows.backward.layers[:, self.allowed].min(axis=1), rows.backward.first, rows.backward.last)
        forward, backward = rows.forward.total(counts, ends), fastest.total(counts, ends)
        nothing = np.zeros_like(forward)
        seconds = StageSeconds(forward, backward, nothing, nothing, nothing, nothing)
        mix = np.zeros((0,), dtype=np.int64)
        free = StageTables(self.entry, self.ranges, seconds, shortest_tail=nothing, mix=mix, least_both=nothing)
        return np.asarray((stage_bounds(free) < limit_seconds) & allowed_ranges(self.entry, self.ranges))

    def _mix(self, tables: StageTables, partition: Partition) -> IntArray:
        return tables.mix[np.arange(self.entry.pp), self.ranges.kinds(np.array(partition.layers))]

    def _between(self, found: Partition, mix: IntArray, mixes: list[IntArray]) -> tuple[Partition, IntArray]:
        """Return the best of mixes of the first rank that lie between two of `mixes`, with layers moved one by one."""
        firsts = [each[0] for each in mixes if each[0].sum() == mix[0].sum()]
        tried = [mix[0]]
        for one, other in combinations(firsts, 2):
            tried += _steps(one, other)
        every = np.repeat(mix[None], len(tried), axis=0)
        every[:, 0] = np.stack(tried)
        staged = StagedEntry(self.entry, self.ranges)
        seconds = np.where(staged.ranks_fit(every).all(axis=1), staged.seconds(every), np.inf)
        best = int(seconds.argmin())
        if not seconds[best] < found.step_seconds:
            return found, mix
        return replace(found, step_seconds=float(seconds[best])), every[best]

    def _bound(self, lower: StageTables, limit_seconds: float) -> float:
        """Return a lower bound on the partitions below the limit; infinite where there is none."""
        active = lower.feasible & (stage_bounds(lower) < limit_seconds) & allowed_ranges(self.entry, self.ranges)
        ways = ways_to_hold(lower, active)
        if not 0 < ways[0][0] <= _MOST_BOUNDED:
            partition = best_partition(lower, limit_seconds, self.paths)
            return np.inf if partition is None else partition.bound_seconds
        layers = compositions(lower, active, ways)
        if self.entry.pp == 1:  # here the mix counts its tail
            return float(evaluate(lower, layers).min())
        bounds = evaluate(lower, layers, tails=lower.least_tail)
        near = np.flatnonzero(bounds < limit_seconds)
        if len(near):
            bounds[near] = np.maximum(bounds[near], self._waiting(lower, layers[near]))
        return float(bounds.min())

    @property
    def _backwards(self) -> int:
        """W: backwards of the first rank on every path that waits there."""
        return 1 + min(arm.backwards for arm in self._arms(0))

    def _arms(self, stage: int) -> list[Arm]:
        return waiting_arms(self.entry.schedule, self.entry.pp, stage, self.entry.microbatches)

    def _waiting(self, lower: StageTables, layers: IntArray) -> Array:
        """(B,): the longest paths that wait at a stage, from below, for partitions (B, S)."""
        kinds = self.ranges.kinds(layers)
        seconds = lower.seconds[np.arange(self.entry.pp), kinds]
        later = reduce(np.maximum, [self._path(seconds, stage) for stage in range(1, self.entry.pp)])
        first = self._path(seconds, 0)
        held, place = np.unique(kinds[:, 0], return_inverse=True)
        found, most = np.zeros(len(layers)), self._backwards
        for weight in self._weights:
            share = (most - weight) / (most - 1) if most > 1 else 0.0
            both = share * later + (1 - share) * first + self._least(weight, held)[place]
            found = np.maximum(found, both)
        return np.asarray(found + seconds.optimizer.max(axis=1))

    def _path(self, seconds: StageSeconds, stage: int) -> Array:
        """(B,): C of the docstring, from below."""
        send, arms = float(self.entry.rows.send), self._arms(stage)
        both = seconds.forward + seconds.backward
        trip = both[:, stage + 1 :].sum(axis=1) + 2 * send * (self.entry.pp - 1 - stage)
        first_trip = trip + seconds.first_forward_extra[:, stage + 1 :].sum(axis=1)
        least = 1 if stage else self._backwards
        waits = [
            arm.forwards * seconds.forward[:, stage]
            + (arm.backwards + 1 - (0 if stage else least)) * seconds.backward[:, stage]
            + arm.first_trip * first_trip
            + arm.trip * trip
            for arm in arms
        ]
        before = both[:, :stage].sum(axis=1) - (seconds.backward[:, 0] if stage else 0.0)
        extras = seconds.first_forward_extra[:, : stage + 1].sum(axis=1)
        return np.asarray(before + seconds.forward[:, stage] + extras + 2 * send * stage + np.maximum.reduce(waits))

    @property
    def _weights(self) -> list[int]:
        """The backwards that count beside a tail: one, then each a few times more, up to W."""
        if self.entry.pp == 1:
            return []
        return sorted({*(w for w in _WEIGHTS if w < self._backwards), self._backwards})

    def _weighted(self, weight: int) -> Rows:
        return self.entry.rows.backward.weighted(weight) + self.entry.rows.last_backward

    def _solver(self, weight: int) -> OffloadMixSolver:
        solver = mix_solver(self.entry, self.allowed)
        assert isinstance(solver, OffloadMixSolver)
        return replace(solver, seconds=self._weighted(weight).layers)

    def _least(self, weight: int, kinds: IntArray) -> Array:
        """(A,): the least of `weight` backwards and the tail of the first rank, for kinds (A,) of its range."""
        counts, ends = self.ranges.counts[kinds], float((self.entry.ends[0] * self._weighted(weight).ends).sum())
        return np.asarray(self._solver(weight).least(counts, stage_room(self.entry, counts).first)[0] + ends)

    def _with_short_tail(self, tables: StageTables, weight: int, kinds: IntArray) -> StageTables:
        """Return the tables where the first rank's mixes of `kinds` (A,) have the least of `weight` backwards and the tail."""
        counts = self.ranges.counts[kinds]
        mixes = self._solver(weight).solve(counts, stage_room(self.entry, counts).first)
        first = stage_seconds(self.entry.rows, mixes.counts, self.entry.ends[:1, None])
        first = replace(first, backward=np.where(np.isfinite(mixes.seconds), first.backward, np.inf))
        parts = {name: part.copy() for name, part in vars(tables.seconds).items()}
        for name, part in parts.items():
            part[0, kinds] = getattr(first, name)[0]
        mix = tables.mix.copy()
        mix[0, kinds] = mixes.counts[0]
        return replace(tables, seconds=StageSeconds(**parts), mix=mix)


def _steps(one: IntArray, other: IntArray) -> list[IntArray]:
    """Return the mixes (K, P) on the way from `one` to `other`, which hold the same layers, one layer after the other."""
    found, at = [], one.copy()
    for kind in range(len(one)):
        while (at[kind] != other[kind]).any():
            at = at.copy()
            at[kind, int(np.argmax(at[kind] - other[kind]))] -= 1
            at[kind, int(np.argmax(other[kind] - at[kind]))] += 1
            found.append(at)
    return found
