"""Work beside other work: in a thread on a CPU, on a stream on a GPU."""

import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from shardwright.profiler.timing.machines import CpuMachine
from shardwright.profiler.timing.side_by_side import beside, busy_bytes, busy_matmul
from tests.profiler.gpu_stand_in import GpuStandIn


def test_the_other_runs_while_the_work_does_and_no_longer() -> None:
    runs = [0]

    def other() -> None:
        runs[0] += 1
        time.sleep(0.001)

    def ten_runs_later() -> None:
        goal = runs[0] + 10
        while runs[0] < goal:
            time.sleep(0.001)

    work = beside(ten_runs_later, other, CpuMachine())
    work()
    _await(lambda: _rests(runs), "pauses when the work is done")
    before = runs[0]
    work()
    assert runs[0] >= before + 10, "and runs again with it"


def _rests(runs: list[int]) -> bool:
    before = runs[0]
    time.sleep(0.05)
    return runs[0] == before


def _await(done: Callable[[], bool], what: str) -> None:
    for _ in range(200):
        if done():
            return
    pytest.fail(f"waited in vain: {what}")


def test_the_other_runs_from_the_beginning_of_each_repeat() -> None:
    """Work that is over before a thread has woken up would else be timed alone."""
    running = [0]

    def other() -> None:
        running[0] += 1
        time.sleep(0.002)
        running[0] -= 1

    seen: list[int] = []
    for _ in range(10):
        beside(lambda: seen.append(running[0]), other, CpuMachine())()
    assert sum(seen) >= 5, "from the first repeat"
    time.sleep(0.05)
    seen.clear()
    work = beside(lambda: seen.append(running[0]), other, CpuMachine())
    for _ in range(20):
        work()
        time.sleep(0.0003)
    assert sum(seen) >= 15
    time.sleep(0.05)
    seen.clear()
    work()
    time.sleep(0.05)
    assert running == [0], "resting"


def test_the_work_gives_what_it_gives() -> None:
    assert beside(lambda: 42, lambda: None, CpuMachine())() == 42


def test_what_the_other_raises_is_raised() -> None:
    def other() -> None:
        raise ValueError("not again")

    work = beside(lambda: time.sleep(0.05), other, CpuMachine())

    def twice() -> None:
        work()  # may be over before the other has failed
        work()

    with pytest.raises(ValueError, match="not again"):
        twice()


def test_the_thread_ends_with_the_work() -> None:
    work = beside(lambda: None, lambda: None, CpuMachine())
    work()
    threads = [thread for thread in threading.enumerate() if thread.name == "beside"]
    assert threads
    del work
    gc.collect()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()


def test_on_a_gpu_the_other_waits_for_the_work_and_outlasts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work takes 10 ms and the other 4 ms: four of them on the second stream, and only then the work on the first."""
    done: list[str] = []

    class Stream:
        def __init__(self, device: torch.device) -> None:
            done.append(f"stream on {device}")

        def wait_event(self, event: object) -> None:
            done.append("second stream waits")

    class Event:
        def record(self) -> None:
            done.append("first stream records")

    @contextmanager
    def stream(used: Stream) -> Iterator[None]:
        done.append("second stream [")
        yield
        done.append("]")

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", stream)
    machine = GpuStandIn({"work": 10e-3, "other": 4e-3})
    work = beside(machine.work("work", done), machine.work("other", done), machine)
    done.clear()
    work()
    assert done == [
        "first stream records",
        "second stream waits",
        "second stream [",
        "other",
        "other",
        "other",
        "other",
        "]",
        "work",
    ]


def test_the_matmul_takes_what_it_says() -> None:
    """Three square matrices of 256 on a CPU, in fp32; of 4096 on a GPU, in bf16."""
    assert busy_bytes(CpuMachine()) == 3 * 256 * 256 * 4
    assert busy_bytes(GpuStandIn({})) == 3 * 4096 * 4096 * 2
    product = busy_matmul(CpuMachine())()
    assert isinstance(product, torch.Tensor)
    assert product.shape == (256, 256)
    assert product[0, 0].item() == 256


def test_the_other_computes_with_the_threads_of_its_rank() -> None:
    """OpenMP would give a new thread all cores, which other ranks compute on."""
    asked: list[int] = []
    before = torch.get_num_threads()
    set_threads = torch.set_num_threads

    def noted(threads: int) -> None:
        asked.append(threads)
        set_threads(threads)

    torch.set_num_threads(1)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "set_num_threads", noted)
            beside(lambda: time.sleep(0.05), lambda: None, CpuMachine())()
        assert asked == [1]
    finally:
        set_threads(before)
