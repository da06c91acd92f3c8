"""The end of each pipeline rank's last backward: the longest path through a schedule, as a max-plus recurrence.

A schedule of fixed order is a graph. An edge means "after": the rank's previous action, or the neighbour's message. An
action ends at the length of the longest path to it. In steady state each round maps the ranks' ends to their ends a
round later by the same max-plus matrix A. n rounds are then A^n, computed by squaring in O(log microbatches) array
operations. The result is exact, not fitted. The simulation computes it in a second, independent way.

Symbols: P ranks; M microbatches; v stages per rank. Stage s has forward f_s, backward b_s and first-forward extra e_s,
and sends c_s to s + 1 and back. Arrays are [..., stages]; leading axes run over plans.
"""

from copy import copy
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shardwright.base import Array, FloatArray

from .max_plus import repeat
from .stage_costs import StageCosts


def gpipe_ends(costs: StageCosts, microbatches: int) -> FloatArray:
    """[..., pp] seconds, GPipe.

    The forwards are a flow shop with equal jobs. The longest path to the last forward of the last stage climbs all
    stages. It passes its M - 1 further microbatches on one stage j:

        sum f + sum c + max_j (sum_{i<=j} e_i + (M - 1) f_j)

    Extras belong to microbatch 0, so they count up to j. The backwards are the same in reverse, from the last stage.
    """
    more = microbatches - 1
    extra = np.cumsum(costs.first_forward_extra, axis=-1)
    forward_end = _climb(costs.forward, costs.send)[..., -1] + (extra + more * costs.forward).max(axis=-1)
    climb = _climb(costs.backward, costs.send)
    descent = climb[..., -1:] - climb + costs.backward
    return np.asarray(forward_end[..., None] + descent + more * _highest_from_here(costs.backward))


def one_forward_one_backward_ends(costs: StageCosts, microbatches: int) -> FloatArray:
    """[..., pp] seconds, 1F1B.

    With w_s = P - 1 - s warm-up forwards, round k is F_s(w_s + k) and B_s(k) on every stage s. Before F_s(w_s) there
    are only forwards. As in GPipe it therefore ends at

        sum_{j<=s} f_j + sum_{j<s} c_j + max_{j<=s} (sum_{i<=j} e_i + w_s f_j)

    and then, round after round, M - P times:

        B_s(k)           = max_{t>=s} (F_t(w_t + k) + sum_{s<=j<=t} b_j + sum_{s<=j<t} c_j)
        F_s(w_s + k + 1) = f_s + max(B_s(k), F_{s-1}(w_{s-1} + k) + c_{s-1})

    In the last P - 1 rounds (from the first one where M < P) the stages run out of forwards, stage 0 first. There
    B_s(k) follows immediately after B_s(k - 1).
    """
    pp, stage = costs.pp, np.arange(costs.pp)
    extra = np.cumsum(costs.first_forward_extra, axis=-1)
    stays = np.full_like(extra, -np.inf)
    for j in stage:
        stays[..., j:] = np.maximum(
            stays[..., j:], extra[..., j, None] + (pp - 1 - stage[j:]) * costs.forward[..., j, None]
        )
    forward_ends = _climb(costs.forward, costs.send) + stays

    flat = _FlatCosts(costs.forward, costs.backward, costs.send, _climb(costs.backward, costs.send))
    alike = max(0, microbatches - pp)
    forward_ends = repeat(flat, forward_ends, alike, calls=8)
    first = max(0, pp - microbatches)  # the stages before it run all forwards before their first backward
    backward_ends = _flat_backwards(flat, np.where(stage >= first, forward_ends, -np.inf))
    for out_of_forwards in range(first + 1, pp):
        forward_ends = _flat_forwards(flat, forward_ends, backward_ends)
        backward_ends = _flat_backwards(flat, np.where(stage >= out_of_forwards, forward_ends, backward_ends))
    return backward_ends


class _FlatCosts(NamedTuple):
    """1F1B: one stage a rank. `climb[s]` is sum_{j<=s} b_j + sum_{j<s} c_j."""

    forward: FloatArray
    backward: FloatArray
    send: FloatArray
    climb: FloatArray

    def round(self, forward_ends: FloatArray) -> FloatArray:
        return _flat_forwards(self, forward_ends, _flat_backwards(self, forward_ends))

    def widened(self) -> "_FlatCosts":
        return _FlatCosts(*(array[..., None, :] for array in self))

    def among(self, plans: Array) -> "_FlatCosts":
        return _FlatCosts(*(array[plans] for array in self))


def _flat_backwards(costs: _FlatCosts, ready: FloatArray) -> FloatArray:
    return _highest_from_here(ready + costs.climb) - costs.climb + costs.backward


def _flat_forwards(costs: _FlatCosts, forward_ends: FloatArray, backward_ends: FloatArray) -> FloatArray:
    start = backward_ends.copy()
    np.maximum(start[..., 1:], forward_ends[..., :-1] + costs.send, out=start[..., 1:])
    return start + costs.forward


def interleaved_ends(costs: StageCosts, microbatches: int) -> FloatArray:
    """[..., pp] seconds, interleaved 1F1B.

    Number a rank's forwards k = 0 .. M v - 1 in its order, and its backwards j alike. Let p0 = (v + 1) P - 2. Turn p on
    rank r is forward k = p - r and then backward j = p - p0 + r, where these exist. That is exactly the rank's order:
    (v - 1) P + 2 (P - 1 - r) forwards, then one forward and one backward in turn. The neighbour on the ring of ranks
    always sent the needed message in the turn before. Each turn is therefore

        F_r' = f + max(free_r, F_{r-1} + c)
        B_r' = b + max(F_r', B_{r+1} + c),    free_r' = B_r'

    with f, b and c of the chunk of that turn; the chunk changes every P turns. From turn p0 to M v - 1 all ranks do
    both. The v P turns of a round are then one max-plus matrix on the 2 P ends.
    """
    ring = _Ring(costs, microbatches)
    state = np.zeros((*costs.batch_shape, 2 * costs.pp))
    rounds = max(0, ring.forwards - ring.first_full) // ring.period
    ring.run(state, range(ring.first_full))
    state = repeat(ring, state, rounds, calls=10 * ring.period)
    ring.run(state, range(ring.first_full + rounds * ring.period, ring.forwards + ring.first_full))
    return state[..., costs.pp :]


class _TurnCosts(NamedTuple):
    """[period, ..., P] each: cost of a turn on every rank. A missing message counts as one that arrived at -inf."""

    forward: FloatArray
    forward_message: FloatArray
    backward: FloatArray
    backward_message: FloatArray


class _Ring:
    """Interleaved 1F1B as turns on a ring of ranks.

    A state is [..., 2 P]: the end of each rank's last forward, then the time when the rank is free. In a turn with a
    backward the second is the end of that backward. Neighbours read it as a message only after such a turn.
    """

    def __init__(self, costs: StageCosts, microbatches: int) -> None:
        self.pp = costs.pp
        self.period = costs.stages
        self.forwards = microbatches * costs.stages_per_rank
        self.first_full = self.period + self.pp - 2
        self._before = np.arange(-1, self.pp - 1)
        self._after = np.arange(1, self.pp + 1) % self.pp
        self._extra = costs.first_forward_extra
        turns, rank = np.arange(self.period)[:, None], np.arange(self.pp)
        forward_stage = (turns - rank) // self.pp % costs.stages_per_rank * self.pp + rank
        backward_stage = (-1 - (turns - self.first_full + rank) // self.pp) % costs.stages_per_rank * self.pp + rank
        none = np.full((*costs.batch_shape, 1), -np.inf)
        self._costs = _TurnCosts(
            _by_turn(costs.forward, forward_stage),
            _by_turn(np.concatenate([none, costs.send], axis=-1), forward_stage),
            _by_turn(costs.backward, backward_stage),
            _by_turn(np.concatenate([costs.send, none], axis=-1), backward_stage),
        )

    def widened(self) -> "_Ring":
        """The same ring for states [..., several states, 2 P]."""
        return self._with(*(array[..., None, :] for array in self._costs))

    def among(self, plans: Array) -> "_Ring":
        """The ring of those plans (N,) that are true, where the leading axis runs over N plans."""
        return self._with(*(array[:, plans] for array in self._costs))

    def _with(self, *costs: FloatArray) -> "_Ring":
        ring = copy(self)
        ring._costs = _TurnCosts(*costs)
        return ring

    def round(self, state: FloatArray) -> FloatArray:
        """Return the state one round after `state`, where all ranks run a forward and a backward in each turn."""
        state = state.copy()
        for turn in range(self.first_full, self.first_full + self.period):
            self._turn(state, turn, slice(0, self.pp), slice(0, self.pp))
        return state

    def run(self, state: FloatArray, turns: range) -> None:
        """Advance `state` in place through turns in which some ranks may have no forward or no backward."""
        for turn in turns:
            forward = slice(max(0, turn - self.forwards + 1), min(self.pp, turn + 1))
            backward = slice(max(0, self.first_full - turn), min(self.pp, self.forwards + self.first_full - turn))
            self._turn(state, turn, forward, backward)

    def _turn(self, state: FloatArray, turn: int, forward: slice, backward: slice) -> None:
        """Advance `state` in place by one turn; `forward` and `backward` are the ranks that have such a pass."""
        phase = turn % self.period
        forward_ends, free = state[..., : self.pp], state[..., self.pp :]
        if forward.start < forward.stop:
            start = forward_ends[..., self._before[forward]] + self._costs.forward_message[phase][..., forward]
            np.maximum(start, free[..., forward], out=start)
            start += self._costs.forward[phase][..., forward]
            if turn < self.period:  # microbatch 0 is on stage p in turn p
                start[..., turn % self.pp - forward.start] += self._extra[..., turn]
            forward_ends[..., forward] = start
        if backward.start < backward.stop:
            start = free[..., self._after[backward]] + self._costs.backward_message[phase][..., backward]
            free[..., forward] = forward_ends[..., forward]
            np.maximum(start, free[..., backward], out=start)
            free[..., backward] = start + self._costs.backward[phase][..., backward]
        else:
            free[..., forward] = forward_ends[..., forward]


def _by_turn(per_stage: FloatArray, stage: NDArray[np.int64]) -> FloatArray:
    """[turns, ..., P] from [..., stages] and [turns, P]."""
    return np.ascontiguousarray(np.moveaxis(per_stage[..., stage], -2, 0))


def _climb(per_stage: FloatArray, send: FloatArray) -> FloatArray:
    """[..., stages]: sum of `per_stage` up to and with stage s, and of the sends on the way there."""
    climb = np.cumsum(per_stage, axis=-1)
    climb[..., 1:] += np.cumsum(send, axis=-1)
    return climb


def _highest_from_here(values: FloatArray) -> FloatArray:
    """[..., s] = max_{t>=s} values[..., t]."""
    return np.maximum.accumulate(values[..., ::-1], axis=-1)[..., ::-1]
