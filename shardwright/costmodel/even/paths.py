"""The pipeline's longest path where stages are even: a few candidate paths, each linear in the costs of the rows.

`pipeline_recurrence` finds the longest of all paths through a schedule, exactly and one plan after the other. Where the
stages between the first and the last are alike, the longest path is nearly always one of a few: climb to some stage with
the first microbatch, stay on its rank for the step, come down with the last. Every path here is a path of the schedule,
so their maximum is never above the exact step; how far below it may be is measured in tests/costmodel/even/test_closed_form.py.

Symbols as in `pipeline_recurrence`: P ranks, M microbatches, v stages per rank, S = P v stages; stage s has forward f_s,
backward b_s, x_s = f_s + b_s, first-forward extra e_s, tail of reductions t_s and sends c to its neighbours.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np

from shardwright.base import FloatArray, IntArray
from shardwright.costmodel.pipeline import warm_up_forwards
from shardwright.specs import ScheduleName

from .stages import Run, alike


@dataclass(frozen=True)
class Stay:
    """Paths that spend the step on one rank: `each` (K,) for every microbatch, and once the costliest of `once` (p, K)."""

    each: FloatArray
    once: list[FloatArray]


@dataclass(frozen=True)
class Loop:
    """A path that goes down and up between two stages, because messages make that longer than to stay on either.

    Each of its rounds takes `each` (K,) and moves the microbatch on by `width`; the last M - `late` - rounds * `width` of
    them stay on the first of the stages, or go down and up between fewer, of which those of `runs` (places) take least.
    """

    once: FloatArray
    each: FloatArray
    stay: int
    runs: slice
    width: int
    late: int


@dataclass(frozen=True)
class EvenPaths:
    """Candidate paths of one shape; coefficients of the rows' costs (K = 4 R + 1), see `Legs`."""

    stays: list[Stay]
    loops: list[Loop]
    run_stages: FloatArray

    def seconds(self, costs: FloatArray, microbatches: FloatArray) -> FloatArray:
        """(n,) seconds, from costs (K, n): rows' forward, backward, first-forward extra, tail (R each), and one send."""
        once, stays = self._once @ costs, (self._each @ costs) * microbatches
        for stay, ways in zip(stays, self._ways, strict=True):
            stay += once[ways].max(axis=0)
        longest = np.asarray(stays.max(axis=0))
        if self.loops:
            of_run = self.run_stages @ costs
            begin, rounds = self._loops_once @ costs, self._loops_each @ costs
            for index, loop in enumerate(self.loops):
                through = self._loop(loop, begin[index], rounds[index], of_run, 2 * costs[-1], microbatches)
                np.maximum(longest, through, out=longest)
        return longest

    @cached_property
    def _once(self) -> FloatArray:
        return np.concatenate([stay.once for stay in self.stays])

    @cached_property
    def _ways(self) -> list[slice]:
        """The lines of `_once` that belong to each stay."""
        ends = accumulate(len(stay.once) for stay in self.stays)
        return [slice(end - len(stay.once), end) for stay, end in zip(self.stays, ends, strict=True)]

    @cached_property
    def _each(self) -> FloatArray:
        return np.stack([stay.each for stay in self.stays])

    @cached_property
    def _loops_once(self) -> FloatArray:
        return np.stack([loop.once for loop in self.loops])

    @cached_property
    def _loops_each(self) -> FloatArray:
        return np.stack([loop.each for loop in self.loops])

    @staticmethod
    def _loop(
        loop: Loop,
        once: FloatArray,
        each: FloatArray,
        of_run: FloatArray,
        both_ways: FloatArray,
        microbatches: FloatArray,
    ) -> FloatArray:
        left = microbatches - loop.late
        rounds = np.floor(left / loop.width)
        left = left - rounds * loop.width
        shorter = left * of_run[loop.runs].min(axis=0) + both_ways * np.maximum(0.0, left - 1)
        return np.asarray(once + rounds * each + np.maximum(left * of_run[loop.stay], shorter))


@dataclass(frozen=True)
class Legs:
    """Pieces of a path as coefficients (K,) of the rows' costs; `counts` (S, R) are the rows of every stage."""

    counts: IntArray

    @cached_property
    def _before(self) -> IntArray:
        return np.concatenate([np.zeros_like(self.counts[:1]), np.cumsum(self.counts, axis=0)])

    def _of(self, kind: int, rows: IntArray) -> FloatArray:
        width = self.counts.shape[1]
        leg = np.zeros(4 * width + 1)
        leg[kind * width : (kind + 1) * width] = rows
        return leg

    def forward(self, first: int, end: int) -> FloatArray:
        """One microbatch's forwards on stages `first` up to but without `end`."""
        return self._of(0, self._before[end] - self._before[first])

    def backward(self, first: int, end: int) -> FloatArray:
        return self._of(1, self._before[end] - self._before[first])

    def both(self, first: int, end: int) -> FloatArray:
        return self.forward(first, end) + self.backward(first, end)

    def extra(self, first: int, end: int) -> FloatArray:
        return self._of(2, self._before[end] - self._before[first])

    def tail(self, stages: slice) -> FloatArray:
        """The tails of the reductions of all `stages`: a rank's add up."""
        return self._of(3, self.counts[stages].sum(axis=0))

    def sends(self, count: int) -> FloatArray:
        leg = self._of(0, np.zeros_like(self.counts[0]))
        leg[-1] = count
        return leg

    def weighted(self, kind: int, stages: slice, times: IntArray) -> FloatArray:
        """Forwards (`kind` 0), backwards (1) or extras (2) of `stages`, each its number of `times`."""
        return self._of(kind, times @ self.counts[stages])


def even_paths(schedule: ScheduleName, counts: IntArray, pp: int, microbatches: int) -> EvenPaths:
    """Candidate paths for stages of `counts` (S, R) rows; `microbatches` as `distinct_microbatches` gives them."""
    legs = Legs(counts)
    if schedule == "gpipe":
        return EvenPaths(_gpipe(legs, pp), [], np.zeros((0, 4 * counts.shape[1] + 1)))
    if schedule == "1f1b":
        runs = alike(counts)
        run_stages = np.stack([legs.both(run.first, run.first + 1) for run in runs])
        return EvenPaths(_flat(legs, pp, microbatches), _loops(legs, runs, pp, microbatches), run_stages)
    return EvenPaths(_interleaved(legs, pp, microbatches), [], np.zeros((0, 4 * counts.shape[1] + 1)))


def _gpipe(legs: Legs, pp: int) -> list[Stay]:
    """Exact: `gpipe_ends`, with j and the stage of the backwards among the runs of like stages."""
    runs = alike(legs.counts)
    stays = []
    for forward in (run.last for run in runs):
        for backward in (run.last for run in runs):
            each = legs.forward(forward, forward + 1) + legs.backward(backward, backward + 1)
            through = legs.forward(0, pp) + legs.extra(0, forward + 1) - each
            once = [
                through + legs.backward(rank, pp) + legs.sends(2 * (pp - 1) - rank) + legs.tail(slice(rank, rank + 1))
                for rank in (run.first for run in runs)
                if rank <= backward
            ]
            stays.append(Stay(each, once))
    return stays


def _flat(legs: Legs, pp: int, microbatches: int) -> list[Stay]:
    """1F1B: climb to stage s (U), stay there; in its w = P - 1 - s warm-up forwards, and again in its last w backwards, a
    microbatch on its way to the last stage and back (D) may take longer than they do."""
    stays = []
    runs, alternates = alike(legs.counts), _first_that_alternates(pp, microbatches)
    for stage in sorted({*_ends(runs), *range(alternates, min(alternates + 1, pp))}):
        warm_up = pp - 1 - stage
        each, down = legs.both(stage, stage + 1), legs.both(stage + 1, pp) + legs.sends(2 * warm_up)
        climb = legs.forward(0, stage) + legs.sends(stage)
        out = legs.backward(0, stage) + legs.sends(stage) + legs.tail(slice(0, 1))
        own_tail = legs.tail(slice(stage, stage + 1))
        extra, own_extra = legs.extra(0, pp), legs.extra(0, stage + 1)
        waited = climb + extra + down - min(warm_up, microbatches - 1) * legs.forward(stage, stage + 1)
        if microbatches - 1 > warm_up:
            twice = climb + extra + 2 * down - warm_up * each
            once = [waited + out, twice + out, twice + own_tail, climb + own_extra + own_tail]
        else:
            once = [waited + out, waited + own_tail, climb + own_extra + own_tail, climb + own_extra + out]
        stays.append(Stay(each, once))
    return stays


def _first_that_alternates(pp: int, microbatches: int) -> int:
    """1F1B: the first stage with a forward after its first backward, so that two microbatches can be waited for there."""
    return max(0, pp + 1 - microbatches)


def _ends(runs: list[Run]) -> list[int]:
    """A path's length is convex in its stage along a run of like stages, so that the longest ends at an end of one."""
    return sorted({stage for run in runs for stage in run})


def _loops(legs: Legs, runs: list[Run], pp: int, microbatches: int) -> list[Loop]:
    """1F1B: the first microbatch goes to the last stage and back, those after it go round in stages i to j.

    A round on n = j - i + 1 stages takes sum x + 2 (n - 1) c and then microbatch k + n is where k was, so that a
    microbatch takes the mean of x plus 2 c (n - 1) / n. Up to n - 1 microbatches are left for a shorter round. The last
    one goes to the last stage and back too, or, where that is the shorter, round once more, and stage i has backwards left.
    """
    loops = []
    for first, run in enumerate(runs):
        stage = max(run.first, _first_that_alternates(pp, microbatches))
        below = pp - 1 - stage
        if stage > run.last:
            continue
        down = legs.both(stage, pp) + legs.sends(2 * below)
        climb = legs.both(0, stage) + legs.sends(2 * stage) + legs.extra(0, pp) + legs.tail(slice(0, 1))
        for last in range(first, len(runs)):
            width = runs[last].last - stage + 1
            each = legs.both(stage, stage + width) + legs.sends(2 * (width - 1))
            rest = below + 1 - width
            ends = [(down, 2 + below)] + [(rest * legs.backward(stage, stage + 1), 1 + rest)] * (rest > 0)
            if width > 1:
                loops += [
                    Loop(climb + down + end, each, stay=first, runs=slice(first, last + 1), width=width, late=late)
                    for end, late in ends
                ]
    return loops


def _interleaved(legs: Legs, pp: int, microbatches: int) -> list[Stay]:
    """Interleaved 1F1B: the first microbatch's path to the end and back, and those that stay on a rank."""
    stages = len(legs.counts)
    whole = legs.both(0, stages) + legs.extra(0, stages) + legs.sends(2 * (stages - 1)) + legs.tail(slice(0, None, pp))
    by_rank = alike(legs.counts.reshape(-1, pp, legs.counts.shape[1]).swapaxes(0, 1))
    ranks = [0, pp - 1] if len(by_rank) <= 3 else _ends(by_rank)
    return [Stay(np.zeros_like(whole), [whole]), *(_InterleavedRank(legs, pp, microbatches, r).stay() for r in ranks)]


@dataclass(frozen=True)
class _InterleavedRank:
    """Paths of interleaved 1F1B that stay on `rank`.

    A path enters on the rank's chunk j with the first microbatch, in place of the P j forwards before it, and leaves on
    chunk j with the last one, in place of the P j backwards after it; j is 0 or the last that the warm-up reaches. As the
    first stage holds the embedding too, its first P forwards or last P backwards may be the longer way in or out. Or it
    enters with the first microbatch's gradient, in place of all forwards before the first backward, and leaves with the
    last microbatch's forward, in place of all backwards after it.
    """

    legs: Legs
    pp: int
    microbatches: int
    rank: int

    def stay(self) -> Stay:
        legs, own = self.legs, slice(self.rank, None, self.pp)
        ones = np.ones(self._chunks, dtype=np.int64)
        each = legs.weighted(0, own, ones) + legs.weighted(1, own, ones)
        extra, first_tail = legs.weighted(2, own, ones), legs.tail(slice(0, None, self.pp))
        first, last = 0, min(self._chunks - 1, self._warm_up // self.pp)
        enters = [self._enter(first), self._enter(last), self._enter_after_first_stage(last)]
        leaves = [self._leave(first), self._leave(last), self._leave_before_first_stage(last)]
        ways = [(enter, leave) for enter in enters for leave in leaves]
        ways += [(self._enter_with_gradient(), leave) for leave in leaves]
        ways += [(enter, self._leave_with_forward()) for enter in enters]
        if self._before_backward < self._chunks * self.microbatches:  # else both would be the same microbatches' way
            ways.append((self._enter_with_gradient(), self._leave_with_forward()))
        once = [extra + first_tail + enter + leave for enter, leave in ways]
        return Stay(each, [*once, extra + enters[0] + legs.tail(own)])

    @property
    def _chunks(self) -> int:
        return len(self.legs.counts) // self.pp

    @property
    def _warm_up(self) -> int:
        return warm_up_forwards("interleaved-1f1b", self.pp, self._chunks, self.microbatches, self.rank)

    @property
    def _before_backward(self) -> int:
        return min(self._chunks * self.microbatches, self._warm_up + 1)

    @property
    def _first_forwards(self) -> IntArray:
        """(v,): the forwards before the first backward, by chunk; the backwards after the last forward, from the last chunk."""
        rounds, rest = divmod(self._before_backward, self._chunks * self.pp)
        return np.asarray(rounds * self.pp + np.clip(rest - self.pp * np.arange(self._chunks), 0, self.pp))

    def _chunks_before(self, chunk: int) -> IntArray:
        return (np.arange(self._chunks) < chunk).astype(np.int64)

    def _enter(self, chunk: int) -> FloatArray:
        legs, own, stage = self.legs, slice(self.rank, None, self.pp), chunk * self.pp + self.rank
        skipped = self._chunks_before(chunk)
        climb = legs.forward(0, stage) + legs.extra(0, stage) + legs.sends(stage)
        return climb - self.pp * legs.weighted(0, own, skipped) - legs.weighted(2, own, skipped)

    def _leave(self, chunk: int) -> FloatArray:
        legs, own, stage = self.legs, slice(self.rank, None, self.pp), chunk * self.pp + self.rank
        skipped = self.pp * legs.weighted(1, own, self._chunks_before(chunk))
        return legs.backward(0, stage) + legs.sends(stage) - skipped

    def _enter_after_first_stage(self, chunk: int) -> FloatArray:
        legs, own, stage = self.legs, slice(self.rank, None, self.pp), (chunk - 1) * self.pp + self.rank
        if not chunk:
            return self._enter(chunk)
        skipped = self._chunks_before(chunk)
        way = (self.pp - 1) * legs.forward(0, 1) + legs.extra(0, 1) + legs.forward(0, stage + 1) + legs.sends(stage)
        return way - self.pp * legs.weighted(0, own, skipped) - legs.weighted(2, own, skipped)

    def _leave_before_first_stage(self, chunk: int) -> FloatArray:
        legs, own, stage = self.legs, slice(self.rank, None, self.pp), chunk * self.pp + self.rank
        if not chunk:
            return self._leave(chunk)
        skipped = self.pp * legs.weighted(1, own, self._chunks_before(chunk))
        return self.pp * legs.backward(0, 1) + legs.backward(self.pp, stage) + legs.sends(stage - self.pp) - skipped

    def _enter_with_gradient(self) -> FloatArray:
        legs, own, stages = self.legs, slice(self.rank, None, self.pp), len(self.legs.counts)
        last = stages - self.pp + self.rank
        way = legs.forward(0, stages) + legs.extra(0, stages) + legs.backward(last + 1, stages)
        way = way + legs.sends(2 * (stages - 1) - last)
        extras = legs.weighted(2, own, np.ones(self._chunks, dtype=np.int64))
        return way - legs.weighted(0, own, self._first_forwards) - extras

    def _leave_with_forward(self) -> FloatArray:
        legs, own, stages = self.legs, slice(self.rank, None, self.pp), len(self.legs.counts)
        last = stages - self.pp + self.rank
        way = legs.forward(last + 1, stages) + legs.backward(0, stages) + legs.sends(2 * (stages - 1) - last)
        return way - legs.weighted(1, own, self._first_forwards[::-1])


def distinct_microbatches(schedule: ScheduleName, pp: IntArray, microbatches: IntArray) -> IntArray:
    """`microbatches`, with those numbers made one beyond which the paths no longer differ."""
    enough = np.ones_like(pp) if schedule == "gpipe" else pp + 1 if schedule == "1f1b" else 2 * pp
    return np.asarray(np.minimum(microbatches, enough))
