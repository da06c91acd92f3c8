import threading
from typing import Any

import pytest
import torch

from shardwright.base.errors import RunFailedError
from shardwright.executor.offload.resources.buffers import BufferPool, pinned_empty
from shardwright.executor.offload.resources.ledger import Ledger
from shardwright.executor.offload.resources.streams import InlineStream, Streams, ThreadStream

CPU = torch.device("cpu")


class TestLedger:
    def test_memory_is_refused_before_it_is_taken(self) -> None:
        ledger = Ledger({"host": 100})
        ledger.take("gradients", "host", 60)
        assert not ledger.takes("activations", "host", 41)
        assert ledger.left_bytes("host") == 40
        with pytest.raises(
            RunFailedError,
            match=r"parameters of 50.0 B on the host would pass the plan's 100 B, of which 60.0 B are held",
        ):
            ledger.take("parameters", "host", 50)
        assert ledger.peaks == {("gradients", "host"): 60}

    def test_peaks_stay_and_what_is_given_back_may_be_taken_again(self) -> None:
        ledger = Ledger({"host": 100})
        for _ in range(3):
            ledger.take("buffers", "host", 70)
            ledger.give_back("buffers", "host", 70)
        ledger.take("gradients", "host", 50)
        assert ledger.peak_bytes("host") == 70
        assert ledger.peaks == {("buffers", "host"): 70, ("gradients", "host"): 50}


def test_host_memory_takes_what_it_holds_and_begins_at_a_page() -> None:
    ledger = Ledger({"host": 4 * 1025})
    tensor = pinned_empty(1025, kind="gradients", ledger=ledger, device=CPU)
    assert tensor.shape == (1025,)
    assert tensor.data_ptr() % 4096 == 0
    assert ledger.left_bytes("host") == 0
    with pytest.raises(RunFailedError):
        pinned_empty(1, kind="gradients", ledger=ledger, device=CPU)


def test_who_finds_no_free_buffer_waits() -> None:
    pool = BufferPool(2, 4, ledger=Ledger({}), device=CPU)
    taken = pool.take(2)
    waits, order = threading.Event(), list[str]()

    def other() -> None:
        waits.set()
        with pool.one():
            order.append("other")

    thread = threading.Thread(target=other)
    thread.start()
    waits.wait()
    order.append("first")
    pool.give_back(taken)
    thread.join()
    assert order == ["first", "other"]


@pytest.mark.parametrize("make", [lambda: ThreadStream("test", CPU), InlineStream])
def test_jobs_run_in_order_and_after_their_tickets(make: Any) -> None:
    first, second, done = make(), make(), list[int]()
    a = first.submit(lambda: done.append(1))
    b = second.submit(lambda: done.append(2), after=[a])
    c = first.submit(lambda: done.append(3), after=[b])
    c.result()
    assert done == [1, 2, 3]
    first.close()
    second.close()


def test_a_job_fails_as_the_one_before_it() -> None:
    streams = Streams(CPU)

    def fail() -> None:
        raise RunFailedError("the drive fails")

    failed = streams.drive_in.submit(fail)
    after = streams.host.submit(lambda: None, after=[failed])
    with pytest.raises(RunFailedError, match="the drive fails"):
        after.result()
    streams.host.submit(lambda: None).result()  # the thread goes on
    streams.close()


def test_jobs_keep_no_graph() -> None:
    streams, leaf = Streams(CPU), torch.ones(1, requires_grad=True)
    found: list[bool] = []
    streams.up.submit(lambda: found.append((leaf * 2).requires_grad)).result()
    assert found == [False]
    streams.close()
