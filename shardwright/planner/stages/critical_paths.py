"""Critical paths of a schedule. Each bounds the step of every plan of its shape from below.

A schedule of fixed order is a graph, and its step is the longest path through it. A path passes each stage's forward,
backward and message a fixed number of times, whatever they take. So the path that is longest for one plan is a lower
bound on the step of every other plan with as many ranks, stages and microbatches. Partitions whose bound is not below
the best plan need no evaluation. This is the cutting-plane method of Kelley 1960 for a convex function, the step.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Self

import numpy as np

from shardwright.base import Array
from shardwright.costmodel.pipeline import (
    ActionKind,
    StageCosts,
    longest_path,
    longest_path_ends,
    runs_of_chunk,
    step_seconds,
    warm_up_forwards,
)
from shardwright.specs import ScheduleName, by_rank, runs_by_chunk, splits_backward, stage_ranks

# Costs are spread by this share at random, so that one path is the longest; then each is raised by a far smaller share.
_SPREAD = 1e-5
_RAISE = 1e-9
_SAME = 1e-12  # far less than what random costs make of one pass more on another stage
_MOST_FOUND = 48
_SPANS = (1, 3, 7, 15)
_EVALUATED_AT_ONCE = 16
_MOST_ROUNDS = 24
_MOST_WALKED = 2048  # microbatches times ranks of a schedule that is walked pass by pass
_SHOWN = 4  # microbatches for each rank that show how a longest path repeats
CLOSED = 3e-4
"""Plans whose steps differ by a smaller share count as equal."""


@dataclass
class CriticalPaths:
    """Paths found so far through one schedule with `pp` ranks and M microbatches.

    `counts` (K, F), F = 5 S - 1 + P: how often each path passes the forward, the backward, the weight gradient and the
    first-forward extra of each stage, the message behind it, and each rank's tail of reductions. The weight gradient is part
    of the backward. A path that passes the input gradient alone counts it as a backward, less a weight gradient.
    """

    schedule: ScheduleName
    pp: int
    microbatches: int
    counts: list[Array] = field(default_factory=list)
    known: int = 0

    @classmethod
    def of(cls, schedule: ScheduleName, pp: int, stages_per_rank: int, microbatches: int) -> Self:
        """Return the paths that are known beforehand."""
        paths = cls(schedule, pp, microbatches)
        if schedule == "interleaved-1f1b":
            paths.counts += _through_ranks(pp, stages_per_rank, microbatches)
        if schedule == "1f1b":
            paths.counts += _round_trips(pp, microbatches)
        if splits_backward(schedule) or runs_by_chunk(schedule):
            paths.counts += _own_work(schedule, pp, stages_per_rank, microbatches)
        paths.known = len(paths.counts)
        return paths

    def find(self, costs: StageCosts) -> float:
        """Return the step of one plan without optimizers, and keep its longest path, unless that takes long to find."""
        exact = float(self._seconds(costs))
        if len(self.counts) < self.known + _MOST_FOUND:
            path = self._longest(self._parts(costs), exact)
            self.counts += [] if path is None else [path]
        return exact

    def _longest(self, parts: Array, seconds: float) -> Array | None:
        """Return the counts (F,) of a path that is as long as the step with `parts` (F,): by the slope in each part, or walked
        where the step is."""
        chance = np.random.default_rng(len(self.counts))
        spread = parts + _SPREAD * (parts + parts.max()) * chance.random(len(parts))
        if not (splits_backward(self.schedule) or runs_by_chunk(self.schedule)):
            found: Iterator[Array] = iter([self._slopes(spread, _RAISE * seconds)])
        elif self.pp * self.microbatches <= _MOST_WALKED:
            found = iter([self._walked(spread, self.microbatches)])
        else:
            found = self._continued(spread)
        step = float(self._seconds(self._costs(spread)))
        return next((counts for counts in found if np.isclose(counts @ spread, step, rtol=_SAME, atol=0.0)), None)

    def _continued(self, parts: Array) -> Iterator[Array]:
        """Yield counts (F,) that a path of so many microbatches would have if it repeats what it does every one or two of few.

        They are those of a path where they are as long as the step: with costs at random no other counts are.
        """
        few = _SHOWN * self.pp + (self.microbatches - _SHOWN * self.pp) % 2
        counts = self._walked(parts, few)
        for period in (1, 2):
            longer = self._walked(parts, few + period)
            yield counts + (self.microbatches - few) // period * (longer - counts)

    def _walked(self, parts: Array, microbatches: int) -> Array:
        """(F,): counts of the longest path of `microbatches`, walked pass by pass."""
        costs = self._costs(parts)
        tails = self._tails(costs)
        rank = int((longest_path_ends(self.schedule, costs, microbatches) + tails).argmax())
        path = longest_path(self.schedule, costs, microbatches, rank)
        forward, backward, weight = np.zeros((3, costs.stages))
        for shape, times in zip(path.shapes, path.passes, strict=True):
            for action in shape.passes:
                forward[action.stage] += times * (action.kind is ActionKind.FORWARD)
                backward[action.stage] += times * (action.kind in (ActionKind.BACKWARD, ActionKind.INPUT_GRADIENT))
                weight[action.stage] += times * (
                    (action.kind is ActionKind.WEIGHT_GRADIENT) - (action.kind is ActionKind.INPUT_GRADIENT)
                )
        passes = [forward, backward, weight, path.first_forwards, path.messages]
        return np.concatenate([*passes, np.arange(self.pp) == rank])

    def _slopes(self, parts: Array, raised: float) -> Array:
        """(F,): by how much the step grows with each part but the weight gradients, as whole numbers."""
        stages = (len(parts) + 1 - self.pp) // 5
        varied = np.ones(len(parts), dtype=bool)
        varied[2 * stages : 3 * stages] = False
        every = parts + raised * np.vstack([np.zeros(len(parts)), np.eye(len(parts))[varied]])
        steps = self._seconds(self._costs(every))
        slopes = np.zeros(len(parts))
        slopes[varied] = np.round((steps[1:] - steps[0]) / raised)
        return slopes

    def bounds(self, costs: StageCosts) -> "PathBounds":
        """Return the bounds of plans (B,)."""
        return PathBounds(self, self._parts(costs), costs.optimizer.max(axis=-1))

    def fastest(
        self, costs: StageCosts, limit_seconds: float, least: StageCosts | None = None, *, exact: bool = False
    ) -> tuple[int, float, float]:
        """Return the fastest of plans (B,): its index, its step, and a lower bound on all of them.

        Plans that take `limit_seconds` or more are not told apart; the step is infinite where there are no others. `least`:
        the same costs with shorter tails, which the bound is of. A path ends with one tail. Plans that differ by less than
        `CLOSED` count as equally fast,
        unless `exact`, and so do those that are left after a number of rounds.
        """
        bounds, seconds = self.bounds(least or costs), np.full(len(costs.forward), np.inf)
        closed, rounds = (0.0, len(seconds)) if exact else (CLOSED, _MOST_ROUNDS)
        for _ in range(rounds):
            below = np.where(np.isinf(seconds), bounds.seconds(), np.inf)
            order = np.argsort(below, kind="stable")[:_EVALUATED_AT_ONCE]
            order = order[below[order] < min(limit_seconds, seconds.min() * (1 - closed))]
            if not len(order):
                break
            seconds[order] = step_seconds(self.schedule, costs[order], self.microbatches)
            lowest = int(order[0])
            if below[lowest] < seconds[lowest] * (1 - CLOSED):
                self.find(costs[lowest])
        best, below = int(seconds.argmin()), bounds.seconds()
        shorter = np.zeros(1) if least is None else (self._tails(costs) - self._tails(least)).max(axis=-1)
        below = np.where(np.isinf(seconds), below, np.minimum(np.maximum(below, seconds - shorter), seconds))
        return best, float(seconds[best]), float(below.min())

    def _seconds(self, costs: StageCosts) -> Array:
        alone = replace(costs, optimizer=np.zeros(self.pp))
        return np.asarray(step_seconds(self.schedule, alone, self.microbatches))

    def _parts(self, costs: StageCosts) -> Array:
        """(..., F): the costs as `counts` orders them."""
        tails = self._tails(costs)
        passes = [costs.forward, costs.backward, costs.weight_gradient, costs.first_forward_extra]
        return np.concatenate([*passes, costs.send, tails], axis=-1)

    def _tails(self, costs: StageCosts) -> Array:
        return np.asarray(by_rank(self.schedule, self.pp, costs.reduce_tail).sum(axis=-2))

    def _costs(self, parts: Array) -> StageCosts:
        """The reverse of `_parts`, with each rank's tail on its first stage."""
        stages = (parts.shape[-1] + 1 - self.pp) // 5
        forward, backward, weight, extra, send, tails = np.split(
            parts, [stages, 2 * stages, 3 * stages, 4 * stages, 5 * stages - 1], axis=-1
        )
        of_stages = np.zeros(forward.shape)
        of_stages[..., : self.pp] = tails
        return StageCosts(
            pp=self.pp,
            forward=forward,
            backward=backward,
            weight_gradient=np.minimum(weight, backward),
            first_forward_extra=extra,
            send=send,
            reduce_tail=of_stages,
        )


@dataclass
class PathBounds:
    """Lower bounds on plans (B,), by all paths that are known when they are read. `parts` (B, F), `optimizer` (B,)."""

    paths: CriticalPaths
    parts: Array
    optimizer: Array
    _read: int = 0
    _longest: Array = field(default_factory=lambda: np.zeros(1))

    def seconds(self) -> Array:
        """(B,)."""
        unread = self.paths.counts[self._read :]
        if unread:
            self._longest = np.maximum(self._longest, (self.parts @ np.stack(unread, axis=1)).max(axis=1))
            self._read = len(self.paths.counts)
        return np.asarray(self._longest + self.optimizer)


def _own_work(schedule: ScheduleName, pp: int, chunks: int, microbatches: int) -> list[Array]:
    """Return the paths (F,) of any schedule that are one rank's order."""
    ranks = np.array(stage_ranks(schedule, pp, pp * chunks))
    own = [np.asarray(ranks == rank, dtype=float) for rank in range(pp)]
    return [
        _path(microbatches * o, microbatches * o, o, np.zeros(pp * chunks - 1), rank, pp) for rank, o in enumerate(own)
    ]


def _through_ranks(pp: int, chunks: int, microbatches: int) -> list[Array]:
    """Return paths (F,) of interleaved 1F1B that follow one rank's order from one microbatch to another.

    They begin with the first microbatch on its way down to the rank, or on its way back from the loss. They end with the
    last gradient on its way up from the rank, or with the last microbatch on its way to the loss and back.
    """
    found, stages = [], pp * chunks
    for rank, back, to_loss in product(range(pp), (False, True), (False, True)):
        warm_up = warm_up_forwards("interleaved-1f1b", pp, chunks, microbatches, rank)
        before = np.array([min(chunks * microbatches, 1 + warm_up)])
        if back and to_loss and before[0] == chunks * microbatches:
            continue  # its last forward is not after its first backward
        of_chunk = runs_of_chunk(before, pp, chunks)[0]
        forward, backward, extra = np.zeros(stages), np.zeros(stages), np.zeros(stages)
        send = np.zeros(stages - 1)
        own, last = np.arange(rank, stages, pp), (chunks - 1) * pp + rank
        forward[own] = backward[own] = microbatches
        extra[own] = 1
        if back:
            forward[own] -= of_chunk
            forward += 1
            extra[:] = 1
            backward[last + 1 :] += 1
            send += 1
            send[last:] += 1
        else:
            forward[:rank] += 1
            extra[:rank] = 1
            send[:rank] += 1
        if to_loss:
            backward[own] -= of_chunk
            forward[last + 1 :] += 1
            backward += 1
            send += 1
            send[last:] += 1
            found += [_path(forward, backward, extra, send, 0, pp)]
        else:
            found += _ending(rank, forward, backward, extra, send, pp)
    return found


def _round_trips(pp: int, microbatches: int) -> list[Array]:
    """Return paths (F,) of 1F1B that go back and forth between two stages, between the first and the last microbatch.

    The first microbatch goes down all stages and up to stage s. From there on the path goes down to stage t and up again,
    time after time. Each such trip takes it t - s + 1 microbatches further, because stage t waits for s's later forwards.
    Where a trip would go too far, stage s runs single microbatches. The last one goes down all stages and up to the first.
    """
    found = []
    for first in range(pp):
        further = microbatches - 2 - (pp - 1 - first)  # from the forward behind the first gradient to the last forward
        if further < 0:
            continue
        lasts = {first, pp - 1, *(last for span in _SPANS if (last := first + span) < pp)}
        for last in sorted(lasts):
            trips, single = divmod(further, last - first + 1)
            forward, backward, send = np.ones(pp), np.zeros(pp), np.ones(pp - 1)
            forward[first:] += 1
            backward[first:] += 2
            send[first:] += 3
            for passes in (forward, backward):
                passes[first : last + 1] += trips
                passes[first] += single
            send[first:last] += 2 * trips
            found += _ending(first, forward, backward, np.ones(pp), send, pp)
    return found


def _ending(rank: int, forward: Array, backward: Array, extra: Array, send: Array, pp: int) -> list[Array]:
    """Return two paths through a rank's last backward: one ends with its tail, one goes up to the first rank and its tail."""
    found = [_path(forward, backward, extra, send, rank, pp)]
    if rank:
        above = np.arange(len(backward)) < rank
        found.append(_path(forward, backward + above, extra, send + above[:-1], 0, pp))
    return found


def _path(forward: Array, backward: Array, extra: Array, send: Array, tail: int, pp: int) -> Array:
    """(F,): a path that ends with the tail of one rank."""
    return np.concatenate([forward, backward, np.zeros(len(forward)), extra, send, np.arange(pp) == tail])
