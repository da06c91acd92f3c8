"""Local steps with an outer optimizer (DiLoCo, Streaming DiLoCo, CO2), and islands that never meet."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from shardwright.specs import Sync

from .buckets import Bucket
from .exchange import mean_over


class Islands:
    """Replicas that never meet."""

    apart = True

    def before_clipping(self, step: int) -> None:
        pass

    def update(self, step: int, optimizer: torch.optim.Optimizer | None, plainly: Callable[[], None]) -> None:
        plainly()

    def after_update(self, step: int) -> None:
        pass

    def exchange_once(self) -> None:
        pass

    def state(self, step: int) -> dict[str, Tensor]:
        return {}

    def restart(self) -> None:
        pass

    def finish(self) -> None:
        pass


@dataclass
class _Fragment:
    """Buckets that are exchanged together, `offset` steps before the end of a round. `moved` are the means that wait to be used."""

    buckets: list[int]
    offset: int
    moved: "Future[list[Tensor]] | None" = None


class LocalSteps(Islands):
    """Each replica takes steps of its own; once in `inner_steps` each fragment of the common base moves by the mean of what replicas moved.

    Fragment f of F is exchanged after steps t with (t + f H // F) mod H = 0. First every replica takes d = base - weights. After
    `delay` more steps, with `Outer`'s update of the base by the mean of d, weights <- a weights + (1 - a) base. Where a result is used in the
    step in which the next exchange begins, d of that comes first, so that no step of a replica is lost or counted twice.
    With a delay the exchange runs in a thread, over a process group that nothing else uses.
    """

    def __init__(self, sync: Sync, buckets: Sequence[Bucket], group: dist.ProcessGroup, device: torch.device) -> None:
        assert sync.outer is not None
        assert sync.inner_steps is not None
        self._sync, self._outer, self._rounds = sync, sync.outer, sync.inner_steps
        self._buckets, self._group, self._device = buckets, group, device
        count = sync.fragments
        self._fragments = [
            _Fragment(list(range(place, len(buckets), count)), place * sync.inner_steps // count)
            for place in range(count)
        ]
        self._base = [bucket.flat() for bucket in buckets]
        self._momentum = [torch.zeros_like(base) for base in self._base]
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="replicas") if sync.delay else None

    def after_update(self, step: int) -> None:
        begins = list(self._begun_at(step))
        moves = [self._moves(fragment) for fragment in begins]
        for fragment in self._fragments:
            if fragment.moved is not None and self._begun_at_or_before(step - self._sync.delay, fragment, step):
                self._take_in(fragment, fragment.moved.result())
                fragment.moved = None
        for fragment, move in zip(begins, moves, strict=True):
            if self._thread is None:
                self._take_in(fragment, self._means(fragment, move))
            else:
                fragment.moved = self._thread.submit(self._means, fragment, move, self._ready())

    def _begun_at(self, step: int) -> Iterator[_Fragment]:
        return (fragment for fragment in self._fragments if (step + fragment.offset) % self._rounds == 0)

    def _begun_at_or_before(self, due: int, fragment: _Fragment, step: int) -> bool:
        """Whether the exchange of `fragment` that runs before the end of `step` began at `due` or before."""
        last = step - 1 - (step - 1 + fragment.offset) % self._rounds
        return last <= due

    def _moves(self, fragment: _Fragment) -> list[Tensor]:
        return [self._base[index] - self._buckets[index].flat() for index in fragment.buckets]

    def _ready(self) -> "torch.cuda.Event | None":
        if self._device.type != "cuda":
            return None
        event: torch.cuda.Event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's
        event.record()
        return event

    def _means(self, fragment: _Fragment, moves: list[Tensor], ready: "torch.cuda.Event | None" = None) -> list[Tensor]:
        if ready is None:
            return self._exchanged(fragment, moves)
        side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]  # likewise
        with torch.cuda.device(self._device), torch.cuda.stream(side):
            ready.wait(side)
            found = self._exchanged(fragment, moves)
            side.synchronize()
        return found

    def _exchanged(self, fragment: _Fragment, moves: list[Tensor]) -> list[Tensor]:
        sizes = [self._buckets[index].sizes for index in fragment.buckets]
        return [mean_over(self._group, move, held, self._sync.bits) for move, held in zip(moves, sizes, strict=True)]

    @torch.no_grad()
    def _take_in(self, fragment: _Fragment, means: list[Tensor]) -> None:
        outer, kept = self._outer, self._outer.keeps_local
        for index, mean in zip(fragment.buckets, means, strict=True):
            base, momentum, bucket = self._base[index], self._momentum[index], self._buckets[index]
            momentum.mul_(outer.momentum).add_(mean)
            moved = mean.add(momentum, alpha=outer.momentum) if outer.nesterov else momentum
            base.sub_(moved, alpha=outer.learning_rate)
            bucket.spread(torch.lerp(base, bucket.flat(), kept) if kept else base)

    def exchange_once(self) -> None:
        for fragment in self._fragments:
            self._take_in(fragment, self._means(fragment, self._moves(fragment)))

    def state(self, step: int) -> dict[str, Tensor]:
        place = dist.get_process_group_ranks(self._group)[0]  # the rank of the first replica that holds the same part
        found = dict[str, Tensor]()
        for kind, tensors in (("base", self._base), ("outer_momentum", self._momentum)):
            found |= {
                f"{kind}.{bucket.name}.rank-{place}": of for bucket, of in zip(self._buckets, tensors, strict=True)
            }
        for fragment in self._fragments:
            last = step - (step + fragment.offset) % self._rounds
            if last > 0 and last + self._sync.delay > step:
                means = self._pending(fragment)
                found |= {
                    f"mean.{self._buckets[index].name}.rank-{place}": mean
                    for index, mean in zip(fragment.buckets, means, strict=True)
                }
        return found

    def _pending(self, fragment: _Fragment) -> list[Tensor]:
        """Return the means that wait to be used; after a start, room for those of a checkpoint."""
        if fragment.moved is None:
            fragment.moved = Future()
            fragment.moved.set_result([torch.zeros_like(self._base[index]) for index in fragment.buckets])
        return fragment.moved.result()

    def restart(self) -> None:
        for index, bucket in enumerate(self._buckets):
            self._base[index].copy_(bucket.flat())
            self._momentum[index].zero_()
        for fragment in self._fragments:
            fragment.moved = None

    def finish(self) -> None:
        for fragment in self._fragments:
            if fragment.moved is not None:
                fragment.moved.result()
        if self._thread is not None:
            self._thread.shutdown()
