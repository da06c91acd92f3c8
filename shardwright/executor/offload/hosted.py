"""Elements off the device at work: gradients come down to them, updates change them bucket by bucket, parameters go up from them."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .buckets import Bucket, Buckets
from .resources import BufferPool, Ledger, Streams, Ticket, pinned_empty
from .rule import Part, UpdateRule
from .spaces import PAGE_ELEMENTS, DriveSpace, MemorySpace, Piece, page_end


class Update(NamedTuple):
    """One step's update. `factor` scales the gradients first, as clipping asks; None leaves them."""

    rule: UpdateRule
    learning_rate: float
    factor: float | None


class Hosted(Protocol):
    """The pieces of one place, host or drives. `gradients`: those of the step, (elements of the space,)."""

    buckets: Buckets
    gradients: Tensor

    def submit(self, bucket: Bucket, update: Update, *, after: Sequence[Ticket]) -> None:
        """Update a bucket with the gradients of the shards that have any in this step."""
        ...

    def show(self, bucket: Bucket) -> None:
        """Let passes read the bucket's parameters as its last update left them, while the next one changes them."""
        ...

    def copy_up(self, piece: Piece, target: Tensor) -> None:
        """Copy a piece's parameters to (stop - start,) elements on the device. It runs in a job of the stream `up`."""
        ...

    def arrays(self) -> list[Tensor]:
        """Return parameters and states, (elements,) each, and the parameters that passes read where they are others, as memory that can be
        read and written."""
        ...


def bring_down(hosted: Hosted, piece: Piece, gradient: Tensor, staging: BufferPool | None) -> None:
    """Copy a piece's gradient, (stop - start,) on the device, to the host; with `staging`, add it to what is there."""
    target = hosted.gradients[piece.offset : piece.end]
    if staging is None:
        target.copy_(gradient, non_blocking=True)
        return
    with staging.one() as buffer:
        for part, sums in zip(torch.split(gradient, len(buffer)), torch.split(target, len(buffer)), strict=True):
            copied = buffer[: len(part)]
            copied.copy_(part, non_blocking=True)
            _await_copies(part)
            sums.add_(copied)


class InMemory:
    """Pieces in the host's memory."""

    def __init__(
        self, space: MemorySpace, buckets: Buckets, *, ledger: Ledger, device: torch.device, streams: Streams
    ) -> None:
        self.buckets, self._space, self._streams = buckets, space, streams
        self.gradients = pinned_empty(space.elements, kind="gradients", ledger=ledger, device=device)

    def submit(self, bucket: Bucket, update: Update, *, after: Sequence[Ticket]) -> None:
        work = _Work(bucket, self.gradients, update)
        bucket.update = self._streams.host.submit(lambda: work.run(self.arrays(), base=0), after=after)

    def show(self, bucket: Bucket) -> None:
        def copy() -> None:
            self._space.shown[bucket.low : bucket.high].copy_(self._space.parameters[bucket.low : bucket.high])

        bucket.copied = self._streams.host.submit(copy)

    def copy_up(self, piece: Piece, target: Tensor) -> None:
        target.copy_(self._space.shown[piece.offset : piece.end], non_blocking=True)

    def arrays(self) -> list[Tensor]:
        apart = self._space.shown is not self._space.parameters
        return [self._space.parameters, *self._space.states, *([self._space.shown] if apart else [])]


class OnDrive:
    """Pieces on the host's drives: their gradients are in its memory, all else passes through buffers."""

    def __init__(
        self,
        space: DriveSpace,
        buckets: Buckets,
        *,
        arrays: int,
        pools: tuple[BufferPool, BufferPool],
        ledger: Ledger,
        device: torch.device,
        streams: Streams,
    ) -> None:
        """`pools`: buffers for parameters on their way up, and for updates."""
        self.buckets, self._space, self._streams = buckets, space, streams
        self._reading, self._updating = pools
        self._arrays = arrays
        self.gradients = pinned_empty(space.elements, kind="gradients", ledger=ledger, device=device)

    def submit(self, bucket: Bucket, update: Update, *, after: Sequence[Ticket]) -> None:
        buffers, high = list[Tensor](), page_end(bucket.high)
        work = _Work(bucket, self.gradients, update)

        def read() -> None:
            buffers.extend(self._updating.take(self._arrays))
            for array, buffer in enumerate(buffers):
                self._space.read(array, bucket.low, high, buffer)

        def write() -> None:
            for array, buffer in enumerate(buffers):
                self._space.write(array, bucket.low, high, buffer)

        streams = self._streams
        filled = streams.drive_in.submit(read, after=[] if bucket.update is None else [bucket.update])
        updated = streams.host.submit(lambda: work.run(buffers, base=bucket.low), after=[filled, *after])
        bucket.update = streams.drive_out.submit(write, after=[updated])
        bucket.update.add_done_callback(lambda _: self._updating.give_back(buffers))  # also where a drive fails

    def show(self, bucket: Bucket) -> None:
        raise NotImplementedError("of a delayed update nothing is on drives (specs/plan/offload.py)")

    def copy_up(self, piece: Piece, target: Tensor) -> None:
        low = piece.offset // PAGE_ELEMENTS * PAGE_ELEMENTS
        with self._reading.one() as buffer:
            while low < piece.end:
                high = min(low + len(buffer), page_end(piece.end))
                self._space.read(0, low, high, buffer)
                begin, end = max(low, piece.offset), min(high, piece.end)
                part = target[begin - piece.offset : end - piece.offset]
                part.copy_(buffer[begin - low : end - low], non_blocking=True)
                _await_copies(part)
                low = high

    def arrays(self) -> list[Tensor]:
        return [self._space.mapped(array) for array in range(self._arrays)]


class _Work:
    """The update of a bucket, of the shards that have a gradient when it is submitted."""

    def __init__(self, bucket: Bucket, gradients: Tensor, update: Update) -> None:
        self._segments = [segment for segment in bucket.segments if segment.piece.shard.arrived]
        self._steps = [segment.piece.shard.steps + 1 for segment in self._segments]
        self._gradients, self._update = gradients, update

    def run(self, arrays: Sequence[Tensor], *, base: int) -> None:
        """Update parameters and states; `arrays` hold them from element `base` of the space on."""
        parts = []
        for segment, step in zip(self._segments, self._steps, strict=True):
            values, *states = (array[segment.low - base : segment.high - base] for array in arrays)
            gradient = self._gradients[segment.low : segment.high]
            if self._update.factor is not None:
                gradient.mul_(self._update.factor)
            parts.append(Part(values, gradient, states, step, segment.piece.shard.weight_decay))
        self._update.rule.apply(parts, self._update.learning_rate)


def _await_copies(tensor: Tensor) -> None:
    """Wait for the copies of this thread's stream, where the tensor is on a GPU."""
    if tensor.device.type == "cuda":
        torch.cuda.current_stream(tensor.device).synchronize()
