"""What waits for what in a schedule: its work as numbered nodes, and the messages between the ranks."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import NamedTuple

from .action import Action, ActionKind, Work
from .schedule import Schedule


class Message(NamedTuple):
    """The result of an action, for which the work with the number `receiver` waits.

    It crosses from stage `boundary` to the next one, or back.
    """

    name: str
    action: Action
    boundary: int
    receiver: int


class Node(NamedTuple):
    """One piece of work on its rank.

    Attributes:
        rank: that computes it.
        name: as printed.
        stage, microbatch: of the action, or of the forward of an overlapped pair.
        shape: index into `ScheduleGraph.shapes`.
        forwards: stages on which it starts to hold a microbatch's activations.
        freed: stages on which it ends to.
        messages: what it sends.
    """

    rank: int
    name: str
    stage: int
    microbatch: int
    shape: int
    forwards: tuple[int, ...]
    freed: tuple[int, ...]
    messages: tuple[Message, ...]


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
        for node in self.nodes:
            for message in node.messages:
                counts[message.receiver] += 1
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
            sent[number_of[source]].append(Message(f"send {source}", source, boundary, number))
    return sent


def _node(rank: int, work: Work, shapes: dict[Work, int], messages: list[Message]) -> Node:
    """Its shape is looked up in `shapes`, or added."""
    passes = work.passes
    return Node(
        rank=rank,
        name=str(work),
        stage=passes[0].stage,
        microbatch=passes[0].microbatch,
        shape=shapes.setdefault(work.of_microbatch_zero(), len(shapes)),
        forwards=tuple(action.stage for action in passes if action.kind is ActionKind.FORWARD),
        freed=tuple(a.stage for a in passes if a.kind in (ActionKind.BACKWARD, ActionKind.WEIGHT_GRADIENT)),
        messages=tuple(messages),
    )
