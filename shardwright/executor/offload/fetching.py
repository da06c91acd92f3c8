"""Parameters on their way up: what FSDP2 gathers next is on the device before it is asked for."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .hosted import Hosted
from .resources import Ledger, Streams, Ticket, hand_over
from .shards import Shard
from .spaces import Piece


class _Coming:
    """A shard that is being put together on the device."""

    def __init__(self, target: Tensor, ticket: Ticket) -> None:
        self.target, self.ticket = target, ticket


@dataclass(frozen=True)
class Source:
    """Where the elements of a shard come from: pieces off the device, and a part that stays on it from `device_start` on."""

    shard: Shard
    pieces: Sequence[tuple[Hosted, Piece]]
    device_part: Tensor | None
    device_start: int


class Fetcher:
    """Puts shards together on the device. It learns the order in which a step gathers groups of them, and brings the next group ahead.

    Two groups are on their way at most: the one that is gathered and the next. A group that comes out of order is fetched when it is
    asked for, and the order is learned anew.
    """

    def __init__(
        self, sources: Mapping[Shard, Source], *, device: torch.device, streams: Streams, ledger: Ledger
    ) -> None:
        self._sources, self._device, self._streams, self._ledger = sources, device, streams, ledger
        self._groups: dict[int, list[Shard]] = {}
        for shard in sources:
            self._groups.setdefault(shard.group, []).append(shard)
        self._coming: dict[Shard, _Coming] = {}
        self._known: list[int] = []
        self._seen: list[int] = []
        self._known_apart: list[int] = []

    def fetch(self, shard: Shard) -> Tensor:
        """Return the shard (elements,) on the device, complete and as its last update left it, or a delayed one found it."""
        if shard not in self._coming:
            self.forget()
            self._begin(shard.group)
        coming = self._coming.pop(shard)
        self._streams.wait([coming.ticket])
        self._ledger.give_back("buffers", "device", 4 * shard.elements)
        if not any(other in self._coming for other in self._groups[shard.group]):
            self._asked_for(shard.group)
        return hand_over(coming.target)

    def begin_step(self) -> None:
        """Bring what the next step gathers first. All updates of this step have been submitted."""
        self.forget()
        self._known, self._seen = self._seen, []
        if self._known:
            self._begin(self._known[0])

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """Learn another order for what is gathered inside the block, between two steps: that of forward passes alone."""
        self.forget()
        of_steps = self._known, self._seen
        self._known, self._seen = self._known_apart, []
        try:
            yield
        finally:
            self.forget()
            self._known_apart = self._seen
            self._known, self._seen = of_steps
            if self._known:
                self._begin(self._known[0])

    def _asked_for(self, group: int) -> None:
        """The whole group has been given out: begin with the one that followed it in the step before."""
        place = len(self._seen)
        self._seen.append(group)
        if self._known[place : place + 1] != [group]:
            self._known = []
        if place + 1 < len(self._known):
            self._begin(self._known[place + 1])

    def _begin(self, group: int) -> None:
        for shard in self._groups[group]:
            if shard not in self._coming:
                self._ledger.take("buffers", "device", 4 * shard.elements)
                target = torch.empty(shard.elements, device=self._device)
                source = self._sources[shard]
                after = [ticket for hosted, piece in source.pieces for ticket in hosted.buckets.shown_of(piece)]
                self._coming[shard] = _Coming(
                    target, self._streams.up.submit(partial(_fill, source, target), after=after)
                )

    def forget(self) -> None:
        """Drop what came in vain."""
        for shard, coming in self._coming.items():
            self._streams.wait([coming.ticket])
            self._ledger.give_back("buffers", "device", 4 * shard.elements)
        self._coming.clear()


def _fill(source: Source, target: Tensor) -> None:
    for hosted, piece in source.pieces:
        hosted.copy_up(piece, target[piece.start : piece.stop])
    if source.device_part is not None:
        target[source.device_start :].copy_(source.device_part)
