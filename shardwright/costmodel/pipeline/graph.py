"""What waits for what in a schedule: its work as numbered nodes, and the messages between the ranks."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise

from .action import Action, Work
from .schedule import Schedule

# (name, stage, microbatch, boundary, receiver): the result of an action of a stage and microbatch, which crosses from
# stage `boundary` to the next one, or back, and for which the work with the number `receiver` waits.
Message = tuple[str, int, int, int, int]

# (rank, name, stage, microbatch, shape, messages): one piece of work; stage and microbatch of its first pass, `shape` an
# index into `ScheduleGraph.shapes`, the messages it sends. Both are plain tuples of plain values, as there are tens of
# thousands and Python's garbage collector looks again and again at anything else.
Node = tuple[int, str, int, int, int, tuple[Message, ...]]


@dataclass(frozen=True, eq=False)
class ScheduleGraph:
    """Work is numbered rank after rank, each rank's in its order.

    Attributes:
        nodes: by number.
        number_of: the number of the work that each action is part of.
        numbers: per rank, the numbers of its work.
        shapes: work that differs in more than its microbatch.
    """

    nodes: tuple[Node, ...]
    number_of: dict[Action, int]
    numbers: tuple[range, ...]
    shapes: tuple[Work, ...]

    @property
    def message_counts(self) -> list[int]:
        """How many messages each piece of work waits for."""
        counts = [0] * len(self.nodes)
        for *_, messages in self.nodes:
            for *_, receiver in messages:
                counts[receiver] += 1
        return counts


@lru_cache(maxsize=64)
def schedule_graph(schedule: Schedule) -> ScheduleGraph:
    """The graph of a schedule that has passed validation."""
    work = [piece for order in schedule.orders for piece in order]
    number_of = {action: number for number, piece in enumerate(work) for action in piece.passes}
    edges = accumulate(map(len, schedule.orders), initial=0)
    shapes: dict[Work, int] = {}
    messages = _messages(schedule, number_of)
    numbers = tuple(range(first, stop) for first, stop in pairwise(edges))
    nodes = [_node(rank, work[number], shapes, messages[number]) for rank, own in enumerate(numbers) for number in own]
    return ScheduleGraph(tuple(nodes), number_of, numbers, tuple(shapes))


def _messages(schedule: Schedule, number_of: dict[Action, int]) -> list[list[Message]]:
    """What each piece of work sends."""
    sent: list[list[Message]] = [[] for _ in range(1 + max(number_of.values()))]
    for action, number in number_of.items():
        source = schedule.source(action)
        if source is not None:
            boundary = min(source.stage, action.stage)
            sent[number_of[source]].append((f"send {source}", source.stage, source.microbatch, boundary, number))
    return sent


def _node(rank: int, work: Work, shapes: dict[Work, int], messages: list[Message]) -> Node:
    """Its shape is looked up in `shapes`, or added."""
    first, shape = work.passes[0], shapes.setdefault(work.of_microbatch_zero(), len(shapes))
    return rank, str(work), first.stage, first.microbatch, shape, tuple(messages)
