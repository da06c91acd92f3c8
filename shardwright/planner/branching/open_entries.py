"""The entries of a space in the order of their lower bounds, which are sharpened only where they may matter.

Most entries are so slow that a bound without cost tables rules them out, and most of the others fall to the quick bound. The
order is that of the sharp bounds: an entry comes only when its sharp bound is the lowest of all bounds, and no other bound is
above its sharp one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.planner.bounds import least_bounds, lower_bounds, quick_bounds
from shardwright.planner.stages import EntrySolver

_ROUNDING = 1e-9
_TINY = 1e-300
_FIRST_PRICED = 16384
_GROWTH = 8
SHARPENED_AT_ONCE = 1024
"""To sharpen fewer entries takes hardly less time."""
_FEW = 4 * SHARPENED_AT_ONCE
_MUCH_LOWER = 0.9


@dataclass
class OpenEntries:
    """Lower bounds (N,) in seconds, infinite where nothing fits, and which of them are at least quick (N,), or sharp (N,)."""

    solver: EntrySolver
    bounds: Array
    quick: Array
    sharp: Array
    chosen: Array = field(default_factory=lambda: np.array(True))

    @classmethod
    def of(cls, solver: EntrySolver) -> Self:
        count = len(solver.costs.space)
        if solver.given is not None:  # the bounds hold for stages that the search chooses, not for given ones
            every = np.ones(count, dtype=bool)
            return cls(solver, np.zeros(count), every, every)
        if count <= _FIRST_PRICED:
            quick = quick_bounds(solver.costs, solver.ranges, solver.allowed)
            return cls(solver, quick, np.ones(count, dtype=bool), np.isinf(quick))
        least = least_bounds(solver.costs, solver.ranges, solver.allowed)
        return cls(solver, least, np.isinf(least), np.isinf(least))

    def among(self, entries: Array) -> "OpenEntries":
        """Return only those entries (N,) that are true. What is sharpened for them is sharp here too."""
        return OpenEntries(self.solver, self.bounds, self.quick, self.sharp, entries)

    def within(self, seconds: float) -> IntArray:
        """Return the entries whose quick bounds are at most `seconds`."""
        near = np.flatnonzero(self.chosen & (self.bounds <= seconds))
        self._quicken(near)
        return near[self.bounds[near] <= seconds]

    def lowest_below(self, seconds: float, most: int) -> IntArray:
        """Return the entries of the lowest sharp bounds below `seconds`, at most so many. No others are sharpened than it takes."""
        near, width = self.within(seconds), max(most, SHARPENED_AT_ONCE)
        while True:
            near = near[self.bounds[near] < seconds]
            near = near[np.argsort(self.bounds[near], kind="stable")]
            if self.sharp[near[:most]].all():
                return near[:most]
            self.sharpen(near[:width], seconds)
            sharp = near[self.sharp[near]]
            if len(sharp) >= most:  # no entry above the last of these is among the lowest
                last = float(np.partition(self.bounds[sharp], most - 1)[most - 1])
                seconds = min(seconds, np.nextafter(last, np.inf))
            width *= _GROWTH

    def bound(self, entry: int) -> float:
        """The sharp bound of an entry."""
        self.sharpen(np.array([entry]))
        return float(self.bounds[entry])

    def raise_bound(self, entry: int, seconds: float) -> None:
        """Note that no plan of an entry takes less than `seconds`: what solving it has shown."""
        self.bounds[entry] = max(self.bounds[entry], seconds)

    def lowest(self) -> float:
        """The lowest of the bounds that are known; infinite where nothing fits."""
        return float(self.bounds.min(initial=np.inf, where=self.chosen))

    def ascending(self, limit: Callable[[], float] = lambda: np.inf) -> Iterator[int]:
        """Yield entries by their sharp bounds, until none is below `limit`, which may fall meanwhile.

        After each sharpening an entry that may lower the limit by much comes out of turn: a plan rules out most of the others.
        """
        done, priced, sharpened = np.zeros(len(self.bounds), dtype=bool), _FIRST_PRICED, SHARPENED_AT_ONCE
        while True:
            left = np.flatnonzero(self.chosen & ~done & (self.bounds < limit()) & np.isfinite(self.bounds))
            left = left[self._order(left)]
            dull = left[~self.quick[left]]
            if len(dull) and (np.isfinite(limit()) or dull[0] == left[0]):
                self._quicken(dull[:priced] if np.isinf(limit()) else dull)
                priced *= _GROWTH
                continue
            for place, entry in enumerate(left):
                if not self.bounds[entry] < limit():
                    return
                if not self.quick[entry]:
                    break
                if not self.sharp[entry]:
                    blunt = left[place:]
                    blunt = blunt[self.quick[blunt] & ~self.sharp[blunt] & (self.bounds[blunt] < limit())]
                    if np.isinf(limit()):
                        blunt = self._cheap_first(blunt)[:SHARPENED_AT_ONCE]
                    elif len(blunt) > _FEW:
                        blunt, sharpened = blunt[:sharpened], sharpened * _GROWTH
                    self.sharpen(blunt, limit())
                    for first in self._out_of_turn(blunt, limit()):
                        done[first] = True
                        yield int(first)
                    break
                done[entry] = True
                yield int(entry)
            else:
                return

    def _quicken(self, entries: IntArray) -> None:
        """Raise the bounds of `entries` (A,) to the quick ones."""
        entries = entries[~self.quick[entries]]
        if len(entries):
            found = quick_bounds(self.solver.costs, self.solver.ranges, self.solver.allowed, entries)
            self.bounds[entries] = np.maximum(found, self.bounds[entries])
            self.quick[entries] = True
            self.sharp[entries] = np.isinf(found)

    def _cheap_first(self, entries: IntArray) -> IntArray:
        """Return the entries of one stage on each rank with whole backwards, whose sharp bounds and plans take the least
        work, or all where there is none."""
        plain = self.solver.costs.space.plain[entries]
        return entries[plain] if plain.any() else entries

    def _out_of_turn(self, entries: IntArray, limit_seconds: float) -> IntArray:
        """Return the entry (1,) of the lowest bound if that may lower the limit by much, or none."""
        worth_it = np.isfinite(self.bounds[entries]) & (self.bounds[entries] < limit_seconds * _MUCH_LOWER)
        entries = entries[worth_it]
        return entries[self.bounds[entries].argsort(kind="stable")[:1]]

    def left(self, done: int) -> int:
        """Return the number of entries that may fit, without `done` ones."""
        return int((self.chosen & np.isfinite(self.bounds)).sum()) - done

    def sharpen(self, entries: IntArray, limit_seconds: float = np.inf) -> None:
        """Sharpen the bounds of `entries` (A,). Those that turn out not to be below the limit need no sharper ones."""
        entries = entries[~self.sharp[entries] & (self.bounds[entries] < limit_seconds)]
        self._quicken(entries)
        entries = entries[~self.sharp[entries] & (self.bounds[entries] < limit_seconds)]
        if len(entries):
            solver = self.solver
            found = lower_bounds(solver.costs, solver.ranges, solver.allowed, entries, limit_seconds)
            # a bound that stopped at the limit may differ from it by rounding
            stopped = np.isfinite(found) & (found >= limit_seconds * (1 - _ROUNDING))
            found = np.where(stopped, np.maximum(found, limit_seconds), found)
            self.bounds[entries] = np.maximum(found, self.bounds[entries])
            self.sharp[entries] = ~stopped

    def _order(self, entries: IntArray) -> IntArray:
        """Order entries by bound. Bounds that differ only by rounding keep the order of the space."""
        return np.argsort(np.round(np.log(np.maximum(self.bounds[entries], _TINY)), 11), kind="stable")
