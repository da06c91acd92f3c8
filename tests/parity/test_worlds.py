"""The worlds that the parity tests run in tell a failure from a success."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.parity import sabotage
from tests.parity.worlds import RankFailedError, run_again, run_world


def _sum_of_ranks(offset: int) -> tuple[int, torch.Tensor]:
    total = torch.tensor([dist.get_rank() + offset])
    dist.all_reduce(total)
    return dist.get_rank(), total


def _raise_on_last_rank() -> None:
    if dist.get_rank() == dist.get_world_size() - 1:
        raise ValueError("the last rank minds")
    dist.barrier()


def _die() -> None:
    os._exit(3)


def _crash(folder: Path, times: int) -> int:
    """End by a signal the first so many times."""
    mark = folder / str(len(list(folder.iterdir())))
    if int(mark.name) < times:
        mark.touch()
        os.kill(os.getpid(), signal.SIGSEGV)
    return int(mark.name)


def _sleep() -> None:
    time.sleep(60)


def test_results_come_back_by_rank() -> None:
    results = run_world(3, _sum_of_ranks, 10)
    assert [rank for rank, _ in results] == [0, 1, 2]
    assert all(total.tolist() == [33] for _, total in results)


@pytest.mark.timeout(100)  # the other rank waits in a barrier; a world gives up after 120 s
def test_a_failing_rank_shows_its_traceback_and_ends_the_others() -> None:
    with pytest.raises(RankFailedError, match=r"rank 1 failed:(.|\n)*_raise_on_last_rank(.|\n)*the last rank minds"):
        run_world(2, _raise_on_last_rank)


def test_a_rank_that_dies_or_hangs_is_reported() -> None:
    with pytest.raises(RankFailedError, match="rank 0 died with exit code 3"):
        run_world(1, _die)
    with pytest.raises(RankFailedError, match=r"ranks \[0\] did not finish"):
        run_world(1, _sleep, timeout_seconds=1.0)


def test_a_world_that_a_signal_ends_runs_once_more_and_shows_where_it_ended(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"rank 0 died with exit code -11:(.|\n)*in _crash"):
        assert run_world(1, _crash, tmp_path, 1) == [1]
    with (
        pytest.warns(UserWarning, match="rank 0 died"),
        pytest.raises(RankFailedError, match=r"rank 0 died with exit code -11:(.|\n)*in _crash"),
    ):
        run_world(1, _crash, tmp_path, 3)


def _process_and_sum(fault: Callable[[], None] | None) -> tuple[int, str]:
    if fault is not None:
        fault()
    return os.getpid(), dist.all_reduce.__name__


def _break_nothing() -> None:
    pass


def test_a_world_that_is_used_again_forgets_a_fault() -> None:
    broken, whole = (run_again(2, _process_and_sum, fault) for fault in (sabotage.norm_of_this_rank, None))
    assert [process for process, _ in broken] == [process for process, _ in whole]
    assert {name for _, name in broken} == {"unless_a_norm"}
    assert {name for _, name in whole} == {"all_reduce"}


def test_a_fault_that_nothing_puts_back_is_refused() -> None:
    with pytest.raises(RankFailedError, match=r"_break_nothing.* replaced nothing that is put back, and would last"):
        run_again(1, _process_and_sum, _break_nothing)
