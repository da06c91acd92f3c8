"""The end of each pipeline rank's last pass, for any schedule: the longest path through its graph, level by level.

This is for schedules without a recurrence in recurrence.py, in which a rank changes its pattern several times a step. A
level holds the work that can run once all levels before it have run, at most one piece for each rank. A step is one
array operation per level, over ranks and plans at once. The graph does not depend on the costs and is cached.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, starmap
from typing import NamedTuple

import numpy as np

from shardwright.base import FloatArray, IntArray
from shardwright.specs import ScheduleName

from .action import Work
from .graph import ScheduleGraph, schedule_graph
from .schedule import make_schedule
from .stage_costs import StageCosts


def longest_path_ends(name: ScheduleName, costs: StageCosts, microbatches: int) -> FloatArray:
    """[..., pp] seconds. Work w ends at

        end_w = seconds_w + max(end_{w'}, max_m (end_m + send_m))

    where w' is the work before w on its rank, and m runs over the senders of the messages that w waits for.
    """
    levels = _levels(name, costs.pp, costs.stages_per_rank, microbatches)
    return np.moveaxis(levels.ends(costs)[levels.last], 0, -1)


class LongestPath(NamedTuple):
    """How often the longest path of one plan passes what.

    Attributes:
        shapes: works without regard to the microbatch; `passes` (shapes,) counts each.
        first_forwards: (stages,), whether it passes microbatch 0's forward.
        messages: (stages - 1,), over each boundary, down or up.
    """

    shapes: tuple[Work, ...]
    passes: IntArray
    first_forwards: IntArray
    messages: IntArray


def longest_path(name: ScheduleName, costs: StageCosts, microbatches: int, rank: int) -> LongestPath:
    """Return the longest path of one plan, without leading axes, to the last work of `rank`; the path is walked back."""
    levels = _levels(name, costs.pp, costs.stages_per_rank, microbatches)
    ends, send = levels.ends(costs), _after_none(costs.send)
    first_forward = {int(row): stage for stage, row in enumerate(levels.first_forward_rows)}
    passes, first_forwards, messages = (
        np.zeros(len(levels.shapes), int),
        np.zeros(costs.stages, int),
        np.zeros(costs.stages, int),
    )
    node = int(levels.last[rank])
    while node:
        row = node - 1
        passes[levels.shape_of_row[row]] += 1
        if row in first_forward:
            first_forwards[first_forward[row]] = 1
        ways = [(ends[levels.before[row]], int(levels.before[row]), 0)]
        for sender, boundary in zip(levels.senders, levels.boundaries, strict=True):
            ways.append((ends[sender[row]] + send[boundary[row]], int(sender[row]), int(boundary[row])))
        _, node, crossed = max(ways)
        messages[crossed] += 1
    return LongestPath(levels.shapes, passes, first_forwards, messages[1:])


def _after_none(send: FloatArray) -> FloatArray:
    """[stages, ...]: messages by the boundary that they cross plus 1, and nothing where no message comes."""
    return np.concatenate([np.zeros((1, *send.shape[:-1])), np.moveaxis(send, -1, 0)])


@dataclass(frozen=True, eq=False)
class _Levels:
    """A schedule's work in the order of levels; `n + 1` stands for row n, 0 for the start of the step.

    Attributes:
        rows: of each level.
        shapes: works that differ in more than their microbatch, and so in their seconds; `shape_of_row` is the shape of
            each row.
        first_forward_rows: [stages] of each stage's first forward.
        before: [rows] the rank's work before.
        senders, boundaries: for the first and for the second message that a row waits for: [rows] the sender, and the
            boundary it crosses plus 1.
        last: [pp] each rank's last.
    """

    rows: tuple[slice, ...]
    shapes: tuple[Work, ...]
    shape_of_row: IntArray
    first_forward_rows: IntArray
    before: IntArray
    senders: tuple[IntArray, ...]
    boundaries: tuple[IntArray, ...]
    last: IntArray

    def ends(self, costs: StageCosts) -> FloatArray:
        """[1 + rows, ...] seconds: the start of the step, and the end of each row."""
        seconds = np.stack([costs.seconds(shape) for shape in self.shapes])[self.shape_of_row]
        seconds[self.first_forward_rows] += np.moveaxis(costs.first_forward_extra, -1, 0)
        send = _after_none(costs.send)
        ends = np.zeros((1 + len(seconds), *costs.batch_shape))
        for rows in self.rows:
            start = ends[self.before[rows]]
            for sender, boundary in zip(self.senders, self.boundaries, strict=True):
                np.maximum(start, ends[sender[rows]] + send[boundary[rows]], out=start)
            np.add(start, seconds[rows], out=ends[rows.start + 1 : rows.stop + 1])
        return ends


@lru_cache(maxsize=256)
def _levels(name: ScheduleName, pp: int, stages_per_rank: int, microbatches: int) -> _Levels:
    schedule = make_schedule(name, pp, stages_per_rank, microbatches)
    graph = schedule_graph(schedule)
    levels = _generations(graph)
    order = np.concatenate(levels)
    row = np.empty_like(order)
    row[order] = np.arange(len(order))
    before = np.zeros_like(order)
    for numbers in graph.numbers:
        before[row[numbers[1:]]] = 1 + row[numbers[:-1]]
    edges = np.cumsum([0, *map(len, levels)]).tolist()
    senders, boundaries = _messages(graph, row)
    shape_of_node = np.array([shape for _, _, _, _, shape, _ in graph.nodes])
    forwards = [schedule.first_forwards[stage] for stage in range(pp * stages_per_rank)]
    return _Levels(
        rows=tuple(starmap(slice, pairwise(edges))),
        shapes=graph.shapes,
        shape_of_row=shape_of_node[order],
        first_forward_rows=row[[graph.number_of[action] for action in forwards]],
        before=before,
        senders=senders,
        boundaries=boundaries,
        last=1 + row[[numbers[-1] for numbers in graph.numbers]],
    )


def _generations(graph: ScheduleGraph) -> list[IntArray]:
    """Return the numbers of the work of each level."""
    waits = graph.message_counts
    after = [-1] * len(waits)
    for numbers in graph.numbers:
        for number in numbers[1:]:
            waits[number] += 1
            after[number - 1] = number
    levels, ready = [], [numbers[0] for numbers in graph.numbers if not waits[numbers[0]]]
    while ready:
        levels.append(np.array(sorted(ready), dtype=np.int64))
        freed = []
        for number in ready:
            later = [receiver for *_, receiver in graph.nodes[number][-1]]
            for waiting in [*later, after[number]] if after[number] >= 0 else later:
                waits[waiting] -= 1
                if not waits[waiting]:
                    freed.append(waiting)
        ready = freed
    return levels


def _messages(graph: ScheduleGraph, row: IntArray) -> tuple[tuple[IntArray, ...], tuple[IntArray, ...]]:
    """Return senders and boundaries as in `_Levels`: one array each, or two where
    overlapped passes wait for two messages."""
    senders, boundaries = np.zeros((2, max(1, *graph.message_counts), len(row)), dtype=np.int64)
    for number, (*_, messages) in enumerate(graph.nodes):
        for *_, boundary, receiver in messages:
            waiting = row[receiver]
            slot = 1 if senders[0, waiting] else 0
            senders[slot, waiting] = 1 + row[number]
            boundaries[slot, waiting] = 1 + boundary
    return tuple(senders), tuple(boundaries)
