"""What may go wrong with shares off the device: each fault is planted in a rank's process before its engine is built."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from shardwright.executor.offload import activations, engine, fetching
from shardwright.executor.offload.buckets import Buckets
from shardwright.executor.offload.engine import OffloadEngine
from shardwright.executor.offload.fetching import Fetcher, Source
from shardwright.executor.offload.hosted import InMemory
from shardwright.executor.offload.resources.streams import Ticket
from shardwright.executor.offload.rule import UpdateRule
from shardwright.executor.offload.shards import Shard
from shardwright.executor.offload.spaces import DriveSpace


def replace_by(owner: Any, name: str, by: Callable[[Any], Any]) -> None:
    """Put `by(original)` in the place of a function of a module or class, in this process."""
    setattr(owner, name, by(getattr(owner, name)))


def drop_a_bucket() -> None:
    """The first bucket is never updated."""

    def without_first(submit: Any) -> Any:
        return lambda self, bucket, update, *, after: submit(self, bucket, update, after=after) if bucket.low else None

    replace_by(InMemory, "submit", without_first)


def keep_stale_parameters() -> None:
    """What comes up for a gather is what came up for the step's first one, before any update."""
    first: dict[Shard, Tensor] = {}

    def stale(fetch: Any) -> Any:
        return lambda self, shard: first.setdefault(shard, fetch(self, shard)).clone()

    replace_by(Fetcher, "fetch", stale)


def fetch_before_the_update() -> None:
    """Parameters come up without waiting for an update that is under way."""
    _slow(UpdateRule, "apply")

    def early(begin: Any) -> Any:
        def without_waiting(self: Fetcher, group: int) -> None:
            kept = Buckets.shown_of
            replace_by(Buckets, "shown_of", lambda _: lambda self, piece: [])
            begin(self, group)
            replace_by(Buckets, "shown_of", lambda _: kept)

        return without_waiting

    replace_by(Fetcher, "_begin", early)


def evaluate_before_the_update() -> None:
    """Evaluations see the parameters that the step before gathered, without its update."""
    gathered: dict[Shard, Tensor] = {}
    evaluates: list[bool] = []

    def stale(fetch: Any) -> Any:
        def earlier(self: Fetcher, shard: Shard) -> Tensor:
            found: Tensor = fetch(self, shard)
            if not evaluates:
                gathered[shard] = found.clone()
            return gathered[shard].clone()

        return earlier

    def noted(apart: Any) -> Any:
        @contextlib.contextmanager
        def evaluation(self: Fetcher) -> Iterator[None]:
            evaluates.append(True)
            with apart(self):
                yield
            evaluates.clear()

        return evaluation

    replace_by(Fetcher, "fetch", stale)
    replace_by(Fetcher, "apart", noted)


def overwrite_gradients_on_their_way() -> None:
    """The memory of a gradient is used again before its copy is down."""
    taken: list[Tensor] = []

    def kept(take: Any) -> Any:
        def remember(self: Shard) -> Tensor:
            taken.append(take(self))
            return taken[-1]

        return remember

    def overwritten(arrived: Any) -> Any:
        def overwrite(self: OffloadEngine, source: Source) -> None:
            arrived(self, source)
            taken.pop().zero_()

        return overwrite

    _slow(engine, "bring_down")
    replace_by(Shard, "take_gradient", kept)
    replace_by(OffloadEngine, "_gradient_is_there", overwritten)


def update_before_the_gradient() -> None:
    """A bucket is updated without waiting for its gradients to come down."""
    _slow(engine, "bring_down")
    replace_by(
        InMemory, "submit", lambda submit: lambda self, bucket, update, *, after: submit(self, bucket, update, after=[])
    )


def forget_earlier_microbatches() -> None:
    """On the host, each microbatch's gradient replaces those before it."""
    replace_by(
        engine, "bring_down", lambda bring: lambda held, piece, gradient, staging: bring(held, piece, gradient, None)
    )


def forget_the_clipping() -> None:
    """The host updates with gradients that are not clipped."""
    replace_by(OffloadEngine, "scale_gradients", lambda _: lambda self, factor: None)


def mix_up_streamed_values() -> None:
    """Each value of a parameter comes up in the place of its neighbour."""

    def rolled(fill: Any) -> Any:
        def mixed(source: Source, target: Tensor) -> None:
            fill(source, target)
            target.copy_(target.roll(1))

        return mixed

    replace_by(fetching, "_fill", rolled)


def leave_state_behind() -> None:
    """The drive keeps the optimizer state of the beginning."""
    replace_by(
        DriveSpace,
        "write",
        lambda write: lambda self, array, *given: None if array else write(self, array, *given),
    )


def lose_the_front_of_activations() -> None:
    """What comes back of a layer's activations is not what went."""
    replace_by(activations, "_join", lambda join: lambda whole, front, rest: join(whole, torch.zeros_like(front), rest))


def bring_up_before_the_way_down() -> None:
    """Activations come back without waiting for their copies to the host."""

    def early(bring_up: Any) -> Any:
        def without_waiting(self: Any, up: Any) -> None:
            kept, self.down = self.down, Ticket()
            self.down.set_result(None)
            bring_up(self, up)
            self.down = kept

        return without_waiting

    _slow(activations, "_copy")
    replace_by(activations._Pass, "await_copies", lambda _: lambda self: None)
    replace_by(activations._Stored, "bring_up", early)


def _slow(owner: Any, name: str) -> None:
    """Let a job take so long that what does not wait for it comes first."""

    def slowed(work: Any) -> Any:
        def late(*given: Any) -> None:
            time.sleep(0.02)
            work(*given)

        return late

    replace_by(owner, name, slowed)
