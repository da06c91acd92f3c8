"""The dependencies of a schedule: its work as numbered nodes, and the messages between the ranks."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise

from .action import Action, Work
from .schedule import Schedule

# (name, stage, microbatch, boundary, receiver): the result of an action of a stage and microbatch. It crosses from
# stage `boundary` to the next one, or back. The work with the number `receiver` waits for it.
Message = tuple[str, int, int, int, int]

# (rank, name, stage, microbatch, shape, messages): one piece of work. Stage and microbatch are those of its first pass.
# `shape` is an index into `ScheduleGraph.shapes`; `messages` are those that it sends. Both tuples hold plain values:
# there are tens of thousands of them, and Python's garbage collector visits other objects again and again.
Node = tuple[int, str, int, int, int, tuple[Message, ...]]


@dataclass(frozen=True, eq=False)
class ScheduleGraph:
    """Work is numbered rank by rank, in the order of each rank.

    Attributes:
        nodes: by number.
        number_of: the number of the work that each action is part of.
        numbers: per rank, the numbers of its work.
        shapes: the distinct works, without regard to the microbatch.
    """

    nodes: tuple[Node, ...]
    number_of: dict[Action, int]
    numbers: tuple[range, ...]
    shapes: tuple[Work, ...]

    @property
    def message_counts(self) -> list[int]:
        """Number of messages that each piece of work waits for."""
        counts = [0] * len(self.nodes)
        for *_, messages in self.nodes:
            for *_, receiver in messages:
                counts[receiver] += 1
        return counts


@lru_cache(maxsize=64)
def schedule_graph(schedule: Schedule) -> ScheduleGraph:
    """Return the graph of a schedule that has passed validation."""
    work = [piece for order in schedule.orders for piece in order]
    number_of = {action: number for number, piece in enumerate(work) for action in piece.passes}
    edges = accumulate(map(len, schedule.orders), initial=0)
    shapes: dict[Work, int] = {}
    messages = _messages(schedule, number_of)
    numbers = tuple(range(first, stop) for first, stop in pairwise(edges))
    nodes = [_node(rank, work[number], shapes, messages[number]) for rank, own in enumerate(numbers) for number in own]
    return ScheduleGraph(tuple(nodes), number_of, numbers, tuple(shapes))


def _messages(schedule: Schedule, number_of: dict[Action, int]) -> list[list[Message]]:
    """Return the messages that each piece of work sends."""
    sent: list[list[Message]] = [[] for _ in range(1 + max(number_of.values()))]
    for action, number in number_of.items():
        source = schedule.source(action)
        if source is not None:
            boundary = min(source.stage, action.stage)
            sent[number_of[source]].append((f"send {source}", source.stage, source.microbatch, boundary, number))
    return sent


def _node(rank: int, work: Work, shapes: dict[Work, int], messages: list[Message]) -> Node:
    """Return the node of `work`; its shape is looked up in `shapes`, or added."""
    first, shape = work.passes[0], shapes.setdefault(work.of_microbatch_zero(), len(shapes))
    return rank, str(work), first.stage, first.microbatch, shape, tuple(messages)
