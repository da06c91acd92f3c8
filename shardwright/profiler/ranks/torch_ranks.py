"""Several ranks that measure together over torch.distributed: gloo among CPUs, and also NCCL among GPUs."""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import FileStore, TCPStore  # type: ignore[attr-defined]  # public, but not marked as such
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from shardwright.base import RanksLostError, SpecError, first_line, usable_cores

from .launch import Launch
from .nodes import Nodes
from .watch import RankWatch, WatchTimes

_MEET_SECONDS = 120.0
_ANSWER_SECONDS = 600.0  # longest time that rank 0 may measure before it gives the next order
_WORK_SECONDS = 120.0
_PART_SECONDS = 10.0

Result = TypeVar("Result")


class TorchRanks:
    """The ranks of one launch (`Ranks`), and the process groups among them.

    Every method is called by all ranks in the same order.

    Raises:
        RanksLostError: from any method, when another rank has ended.
    """

    def __init__(self, store: Store, control: dist.ProcessGroup, nodes: Nodes) -> None:
        """`control`: a gloo group of all ranks, for told and gathered values."""
        self._store, self._control = store, control
        self._groups: dict[tuple[tuple[int, ...], str], dist.ProcessGroup] = {}
        self.nodes = nodes
        self.rank, self.size = dist.get_rank(control), dist.get_world_size(control)

    @property
    def local_rank(self) -> int:
        """Number of this rank on its node, from 0."""
        return self.rank % self.nodes.ranks_per_node

    def tell(self, thing: Any) -> Any:
        told = [thing if self.rank == 0 else None]
        self._together(lambda: dist.broadcast_object_list(told, src=0, group=self._control, device=torch.device("cpu")))
        return told[0]

    def gather(self, thing: Any) -> list[Any]:
        gathered: list[Any] = [None] * self.size
        self._together(lambda: dist.all_gather_object(gathered, thing, group=self._control))
        return gathered

    def barrier(self) -> None:
        self._together(lambda: dist.barrier(group=self._control))

    def group(self, members: tuple[int, ...], purpose: str = "") -> dist.ProcessGroup:
        """Return the process group of `members`, this rank among them; it is made at the first request.

        Ranks of other groups request theirs at the same time. Another `purpose` gets its own group, because works that
        run at once must not share one.
        """
        key = (members, purpose)
        if key not in self._groups:
            made = self._together(
                lambda: dist.new_group(
                    list(members), timeout=timedelta(seconds=_WORK_SECONDS), use_local_synchronization=True
                )
            )
            self._groups[key] = made
        return self._groups[key]

    def _together(self, work: Callable[[], Result]) -> Result:
        return _together(self._store, self.rank, work)


def _together(store: Store, rank: int, work: Callable[[], Result]) -> Result:
    """Do what takes all ranks, and say why when one of them is gone."""
    try:
        return work()
    except RuntimeError as error:
        raise RanksLostError(_why_lost(store, rank, error)) from error


@contextlib.contextmanager
def joined_ranks(
    launch: Launch, *, host: str | None = None, watch_times: WatchTimes | None = None
) -> Iterator[TorchRanks]:
    """Join the ranks of `launch`, on this process's own GPU where there are GPUs, else on its share of the cores.

    The names of machines say which ranks share a node; `host` replaces this machine's own. When the block fails on one
    rank, the others learn why. When a rank dies silently, the others notice at their next request to it. In any case
    they end after the silence of `watch_times`.

    Raises:
        SpecError: the ranks do not find each other, more ranks than GPUs on a node, unequal nodes.
        RanksLostError: another rank failed.
    """
    _take_gpu(launch)
    store = _meet(launch)
    watch = RankWatch(store, launch.rank, launch.size, times=watch_times)
    try:
        watch.start()
        hosts = _together(store, launch.rank, lambda: _hosts(launch.size, host or socket.gethostname()))
        nodes = _share_machine(hosts)
        control = _together(store, launch.rank, _control_group)
        yield TorchRanks(store, control, nodes)
    except BaseException as error:
        word = _word(store)
        _leave_word(store, launch.rank, error)
        if word and isinstance(error, RuntimeError) and not isinstance(error, RanksLostError):
            raise RanksLostError(word) from error
        raise  # without destroying the groups, which would wait for missing peers
    else:
        watch.stop()
        _part(control)
    finally:
        watch.stop()


def _part(control: dist.ProcessGroup) -> None:
    """Leave together, because the shared store ends with rank 0. A rank that does not arrive is not waited for."""
    with contextlib.suppress(RuntimeError):
        dist.monitored_barrier(control, timedelta(seconds=_PART_SECONDS))
        dist.destroy_process_group()


def _take_gpu(launch: Launch) -> None:
    if not torch.cuda.is_available():
        return
    if launch.local_rank >= torch.cuda.device_count():
        raise SpecError(
            f"rank {launch.rank} is number {launch.local_rank + 1} on its node, which shows {torch.cuda.device_count()} GPUs; start one rank per GPU"
        )
    torch.cuda.set_device(launch.local_rank)


def _meet(launch: Launch) -> Store:
    """Return the store that all ranks share. A restarted attempt gets a new
    one: the old one holds outdated addresses."""
    wait = timedelta(seconds=_MEET_SECONDS)
    try:
        if launch.by == "torchrun":
            found: Store = next(iter(rendezvous("env://", timeout=wait)))[0]
        elif launch.file is not None:
            found = FileStore(str(launch.file), launch.size)
        else:
            found = TCPStore(launch.address, launch.port, launch.size, launch.rank == 0, timeout=wait)
        store = PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", found)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=launch.rank, world_size=launch.size, timeout=wait)
    except (RuntimeError, ValueError) as error:
        raise SpecError(
            f"rank {launch.rank} of {launch.size} did not meet the others at {launch.meeting_place} within {_MEET_SECONDS:.0f} s ({first_line(error)}); "
            "check that all ranks were started and that the first node can be reached, or set MASTER_ADDR and MASTER_PORT"
        ) from error
    return store


def _hosts(size: int, host: str) -> tuple[str, ...]:
    hosts: list[Any] = [None] * size
    dist.all_gather_object(hosts, host)
    return tuple(hosts)


def _control_group() -> dist.ProcessGroup:
    group = dist.new_group(backend="gloo", timeout=timedelta(seconds=_ANSWER_SECONDS))
    assert isinstance(group, dist.ProcessGroup)
    return group


def _share_machine(hosts: tuple[str, ...]) -> Nodes:
    nodes = Nodes(hosts)
    if not torch.cuda.is_available():
        torch.set_num_threads(max(1, usable_cores() // nodes.ranks_per_node))
    return nodes


def _leave_word(store: Store, rank: int, error: BaseException) -> None:
    """The first rank that fails tells the others why. If the store died with rank 0, nobody is left to tell."""
    if isinstance(error, RanksLostError):
        return
    with contextlib.suppress(RuntimeError):
        if store.add("failures", 1) == 1:
            store.set("failure", f"rank {rank} failed: {first_line(error)}")


def _word(store: Store) -> str | None:
    with contextlib.suppress(RuntimeError):
        if store.check(["failure"]):
            return store.get("failure").decode()
    return None


def _why_lost(store: Store, rank: int, error: BaseException) -> str:
    word = _word(store)
    if word is not None:
        return word
    return f"rank {rank} lost the others: one of them ended without a message ({first_line(error)})"
