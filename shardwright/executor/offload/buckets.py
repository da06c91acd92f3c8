"""Buckets: equal ranges of a space, each updated together as soon as the gradients of all that lies in it have come."""

from collections.abc import Sequence
from typing import NamedTuple

from .division import aligned
from .resources import Ticket
from .shards import Shard
from .spaces import Piece


class Segment(NamedTuple):
    """What a bucket holds of a piece: elements `low` to `high` of the space."""

    piece: Piece
    low: int
    high: int


class Bucket:
    """Elements `low` to `high` of a space.

    `update` is its newest update, None before the first one, and `copied` the copy of its parameters before that, where updates are delayed. `waiting`: shards whose gradients of this step have not come.
    """

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high
        self.segments: list[Segment] = []
        self.update: Ticket | None = None
        self.copied: Ticket | None = None
        self.waiting: set[Shard] = set()

    @property
    def shown(self) -> Ticket | None:
        """What passes wait for that read its parameters."""
        return self.copied or self.update

    @property
    def shards(self) -> set[Shard]:
        """The shards of which it holds elements."""
        return {segment.piece.shard for segment in self.segments}


class Buckets:
    """The space of `pieces`, cut into buckets of `elements` each, a multiple of a page. The last one is smaller."""

    def __init__(self, pieces: Sequence[Piece], elements: int) -> None:
        self.pieces = tuple(pieces)
        self._elements = elements
        end = aligned(pieces[-1].end) if pieces else 0
        self.all = [Bucket(low, min(low + elements, end)) for low in range(0, end, elements)]
        self._of_shard: dict[Shard, list[Bucket]] = {}
        for piece in pieces:
            held = self._of_shard.setdefault(piece.shard, [])
            for bucket in self.of(piece):
                bucket.segments.append(Segment(piece, max(bucket.low, piece.offset), min(bucket.high, piece.end)))
                held.append(bucket)

    def of(self, piece: Piece) -> list[Bucket]:
        """Return the buckets that hold elements of the piece."""
        return self.all[piece.offset // self._elements : -(-piece.end // self._elements)]

    def updates_of(self, piece: Piece) -> list[Ticket]:
        """Return the newest updates of the piece's elements."""
        return [bucket.update for bucket in self.of(piece) if bucket.update is not None]

    def shown_of(self, piece: Piece) -> list[Ticket]:
        """Return what passes wait for that read the piece's elements."""
        return [bucket.shown for bucket in self.of(piece) if bucket.shown is not None]

    def begin_step(self) -> None:
        """All buckets wait for their gradients."""
        for bucket in self.all:
            bucket.waiting = bucket.shards

    def arrived(self, shard: Shard) -> list[Bucket]:
        """Note that the last gradient of a shard has come; return the buckets that wait for no others now."""
        ready = []
        for bucket in self._of_shard.get(shard, []):
            bucket.waiting.discard(shard)
            if not bucket.waiting:
                ready.append(bucket)
        return ready
