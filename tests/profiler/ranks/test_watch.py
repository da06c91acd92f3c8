"""A rank that falls silent is noticed; one that leaves properly is not missed."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torch.distributed import FileStore  # type: ignore[attr-defined]  # public, but not marked as such
from torch.distributed.distributed_c10d import Store

from shardwright.profiler.ranks.watch import RankWatch, WatchTimes

TIMES = WatchTimes(beat_seconds=0.02, silent_seconds=0.4)


class Watches:
    """Watches of one launch in one process, and what they would have ended it with."""

    def __init__(self, store: Store) -> None:
        self.said: dict[int, str] = {}
        self.watches = {rank: self._watch(store, rank) for rank in range(3)}

    def _watch(self, store: Store, rank: int) -> RankWatch:
        return RankWatch(store, rank, 3, times=TIMES, end=lambda why: self.said.update({rank: why}))


@pytest.fixture
def watches(tmp_path: Path) -> Iterator[Watches]:
    watches = Watches(FileStore(str(tmp_path / "store"), 3))
    yield watches
    for watch in watches.watches.values():
        watch.stop()


def test_ranks_that_live_are_left_alone(watches: Watches) -> None:
    for watch in watches.watches.values():
        watch.start()
    time.sleep(3 * TIMES.silent_seconds)
    assert watches.said == {}


def test_rank_0_notices_a_rank_that_never_shows(watches: Watches) -> None:
    for rank in (0, 1):
        watches.watches[rank].start()
    _await(lambda: 0 in watches.said)
    assert watches.said[0] == "rank 2 has been silent for 0 s and counts as dead"


def test_the_others_notice_that_rank_0_is_gone(watches: Watches) -> None:
    for rank in (1, 2):
        watches.watches[rank].start()
    _await(lambda: len(watches.said) == 2)
    assert all("rank 0 has been silent" in said for said in watches.said.values())


def test_a_rank_that_left_is_not_missed(watches: Watches) -> None:
    for watch in watches.watches.values():
        watch.start()
    time.sleep(0.1)
    watches.watches[2].stop()
    time.sleep(3 * TIMES.silent_seconds)
    assert watches.said == {}


def test_a_store_that_is_gone_ends_the_rank() -> None:
    said: list[str] = []
    watch = RankWatch(GoneStore(), 1, 2, times=TIMES, end=said.append)
    watch.start()
    _await(lambda: bool(said))
    assert said == ["rank 0 is gone, and the shared store with it"]


class GoneStore(Store):
    """What a TCP store is like after the process that held it has ended."""

    def clone(self) -> "GoneStore":
        return self

    def add(self, key: str, value: int) -> int:
        raise RuntimeError("Connection reset by peer")


def _await(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)
