"""The timing seam: the CPU by its clock, CUDA by events in the right order on a made-up device."""

import threading
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest
import torch

from shardwright.profiler.timing import machines
from shardwright.profiler.timing.machines import CpuMachine, CudaMachine, machine_here
from shardwright.profiler.timing.probe import JointWork
from tests.profiler.virtual import on_threads


class Together(JointWork):
    """Work that other ranks take part in."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work

    def __call__(self) -> object:
        self._work()
        return None


class HostClock(threading.local):
    """A clock that stands still until work takes some of its time. Each thread, a rank, has a time of its own."""

    now = 0.0

    def takes(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> HostClock:
    clock = HostClock()
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    return clock


class TestCpu:
    def test_seconds_are_those_of_one_call(self, clock: HostClock) -> None:
        assert CpuMachine().seconds(lambda: clock.takes(0.002), 5) == pytest.approx([0.002] * 5)

    def test_short_work_is_called_many_times_in_one_timing(self, clock: HostClock) -> None:
        calls = [0]

        def work() -> None:
            calls[0] += 1
            clock.takes(3e-6)

        assert CpuMachine().seconds(Together(work), 3) == pytest.approx([3e-6] * 3)
        assert calls[0] == 1 + 3 * 67  # the first call says that 67 of them fill 200 µs

    def test_work_of_one_rank_finds_the_caches_written_over(self) -> None:
        """Once before each call, and by the whole buffer."""
        machine = CpuMachine()
        seen = []

        def work() -> None:
            seen.append((float(machine._flushed[0]), float(machine._flushed[-1])))

        assert len(machine.seconds(work, 3)) == 3
        assert seen == [(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)]

    def test_ranks_of_a_node_share_its_cache(self) -> None:
        assert CpuMachine(ranks_on_node=4)._flushed.nbytes == CpuMachine()._flushed.nbytes // 4

    def test_long_work_is_called_once_a_repeat(self) -> None:
        calls = [0]

        def work() -> None:
            calls[0] += 1
            time.sleep(0.001)

        CpuMachine().seconds(work, 4)
        assert calls[0] == 4

    def test_every_rank_calls_equally_often(self, clock: HostClock) -> None:
        """One rank is slow enough to be timed call by call, rank 0 is not: both do as rank 0 finds right."""
        calls = [0, 0]

        def rank(ranks: Any) -> None:
            def work() -> None:
                calls[ranks.rank] += 1
                clock.takes(1e-3 if ranks.rank == 1 else 100e-6)

            CpuMachine(ranks).seconds(Together(work), 3)

        on_threads(2, rank)
        assert calls == [1 + 3 * 2] * 2  # two calls of rank 0 fill 200 µs

    def test_together_works_run_at_once(self) -> None:
        """Each notes whether the other is running; a short one goes on as long as a long one."""
        running = {"long": 0, "short": 0}
        met = {"long": 0, "short": 0}
        gate = threading.Lock()

        def work(name: str, other: str, seconds: float) -> Callable[[], None]:
            def run() -> None:
                with gate:
                    running[name] += 1
                    met[name] += running[other] > 0
                time.sleep(seconds)
                with gate:
                    running[name] -= 1

            return run

        long, short = CpuMachine().seconds_together(
            [work("long", "short", 0.02), work("short", "long", 0.002)], repeats=4
        )
        assert len(long) >= 3
        assert len(short) >= 15
        assert met["long"] >= 3
        assert met["short"] >= 15
        assert all(each >= 0.02 for each in long)

    def test_together_every_rank_repeats_equally_often(self) -> None:
        calls = [[0, 0], [0, 0]]

        def rank(ranks: Any) -> None:
            def work(index: int, seconds: float) -> Callable[[], None]:
                def run() -> None:
                    calls[ranks.rank][index] += 1
                    time.sleep(seconds * (1 + 4 * ranks.rank * index))

                return run

            CpuMachine(ranks).seconds_together([work(0, 0.003), work(1, 0.001)], repeats=2)

        assert on_threads(2, rank) == [None, None]
        assert calls[0] == calls[1]

    def test_what_fails_together_is_raised(self) -> None:
        calls = [0]

        def fails_later() -> None:
            calls[0] += 1
            time.sleep(0.001)
            if calls[0] > 4:
                raise RuntimeError("lost")

        with pytest.raises(RuntimeError, match="lost"):
            CpuMachine().seconds_together([fails_later, lambda: time.sleep(0.001)], repeats=4)

    def test_memory_is_shared_by_the_ranks_of_a_node(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(machines, "available_memory_bytes", lambda: 8e9)
        assert CpuMachine(ranks_on_node=4).free_bytes() == 2e9

    @pytest.mark.parametrize(("told", "clock_hz"), [(2500.0, 2.5e9), (0.0, None), (None, None)])
    def test_clock(self, monkeypatch: pytest.MonkeyPatch, told: float | None, clock_hz: float | None) -> None:
        frequency = None if told is None else type("Frequency", (), {"current": told})()
        monkeypatch.setattr(psutil, "cpu_freq", lambda: frequency)
        assert CpuMachine().clock_hz() == clock_hz


class MadeUpCuda:
    """Stands for `torch.cuda`: one in-order queue a stream, device time apart from host time, and a log of what came when.

    Host time passes by `host(seconds)`; `kernel(seconds)` queues device work on the current stream.
    """

    FLUSH_SECONDS = 40e-6

    def __init__(self) -> None:
        self.host_now = 0.0
        self.log: list[str] = []
        self._busy_until: dict[int, float] = {}
        self._streams = threading.local()
        self._count = 0
        self.free, self.total = 3 * 2**30, 4 * 2**30

    def host(self, seconds: float) -> None:
        self.host_now += seconds

    def kernel(self, seconds: float, name: str = "work") -> None:
        self.log.append(name)
        self._busy_until[self.current] = max(self.host_now, self.queue) + seconds

    @property
    def current(self) -> int:
        return getattr(self._streams, "current", 0)

    @property
    def queue(self) -> float:
        """When the current stream will be idle."""
        return self._busy_until.get(self.current, 0.0)

    @queue.setter
    def queue(self, until: float) -> None:
        self._busy_until[self.current] = until

    def synchronize(self, device: object = None) -> None:
        self.log.append("synchronize")
        self.host_now = max([self.host_now, *self._busy_until.values()])

    def enter(self, stream: int) -> None:
        self._streams.current = stream

    def new_stream(self) -> int:
        self._count += 1
        return self._count


class MadeUpEvent:
    """When the queue reaches it. `elapsed_time` is in milliseconds, as torch's is."""

    cuda: MadeUpCuda

    def __init__(self, enable_timing: bool = False) -> None:
        assert enable_timing
        self.at: float | None = None

    def record(self) -> None:
        self.cuda.log.append("record")
        self.at = max(self.cuda.host_now, self.cuda.queue)
        self.cuda.queue = self.at

    def elapsed_time(self, end: "MadeUpEvent") -> float:
        assert self.at is not None
        assert end.at is not None
        assert self.cuda.log[-1] == "synchronize", "read before the device is done"
        return (end.at - self.at) * 1e3


class MadeUpBuffer:
    """What is written in front of each repeat."""

    def __init__(self, cuda: MadeUpCuda, size_bytes: int) -> None:
        self.cuda, self.size_bytes = cuda, size_bytes

    def zero_(self) -> None:
        self.cuda.kernel(MadeUpCuda.FLUSH_SECONDS, "flush")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> MadeUpCuda:
    """`torch.cuda` and host time replaced; 50 MiB of L2."""
    made_up = MadeUpCuda()
    MadeUpEvent.cuda = made_up

    class Stream:
        def __init__(self, device: object) -> None:
            self.number = made_up.new_stream()

        def wait_event(self, event: MadeUpEvent) -> None:
            assert event.at is not None
            made_up._busy_until[self.number] = max(made_up._busy_until.get(self.number, 0.0), event.at)

    class Within:
        def __init__(self, entered: Any) -> None:
            self.number = getattr(entered, "number", None)

        def __enter__(self) -> None:
            if self.number is not None:
                made_up.enter(self.number)

        def __exit__(self, *raised: object) -> None:
            if self.number is not None:
                made_up.enter(0)

    properties = type("Properties", (), {"L2_cache_size": 50 * 2**20, "uuid": "abc"})()
    replaced: dict[str, Any] = {
        "Event": MadeUpEvent,
        "Stream": Stream,
        "device": Within,
        "stream": Within,
        "synchronize": made_up.synchronize,
        "get_device_properties": lambda device: properties,
        "mem_get_info": lambda device: (made_up.free, made_up.total),
        "memory_reserved": lambda device: 2**30,
        "memory_allocated": lambda device: 2**28,
    }
    for name, stand_in in replaced.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(torch, "empty", lambda size, dtype, device: MadeUpBuffer(made_up, size))
    monkeypatch.setattr(time, "perf_counter", lambda: made_up.host_now)
    return made_up


@pytest.fixture
def machine(cuda: MadeUpCuda) -> CudaMachine:
    return CudaMachine(torch.device("cuda", 0))


class TestCuda:
    def test_the_buffer_is_twice_the_l2(self, machine: CudaMachine) -> None:
        buffer: Any = machine._flushed
        assert buffer.size_bytes == 100 * 2**20

    def test_a_device_that_does_not_tell_its_l2(self, cuda: MadeUpCuda, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: object())
        buffer: Any = CudaMachine(torch.device("cuda", 0))._flushed
        assert buffer.size_bytes == 128 * 2**20

    def test_seconds_are_the_device_s(self, cuda: MadeUpCuda, machine: CudaMachine) -> None:
        """A kernel of 2 ms: not the milliseconds that an event tells, nor the flush."""
        assert machine.seconds(lambda: cuda.kernel(2e-3), 3) == pytest.approx([2e-3] * 3)

    def test_each_repeat_is_flush_record_work_record(self, cuda: MadeUpCuda, machine: CudaMachine) -> None:
        machine.seconds(lambda: cuda.kernel(1e-3), 1)
        cuda.log.clear()
        machine.seconds(lambda: cuda.kernel(1e-3), 2)
        first_run, rest = cuda.log[0], cuda.log[1:]
        assert first_run == "work"
        once = ["flush", "record", "work", "record"]
        assert rest == ["synchronize", *once, *once, "synchronize"]

    def test_the_host_s_launch_time_does_not_count(self, cuda: MadeUpCuda, machine: CudaMachine) -> None:
        """20 kernels that the host needs 10 us each to start, and the device 1 us to run: 20 us, not 200."""

        def work() -> None:
            for _ in range(20):
                cuda.host(10e-6)
                cuda.kernel(1e-6)

        assert machine.seconds(work, 4) == pytest.approx([20e-6] * 4)

    def test_together_on_streams_of_their_own(self, cuda: MadeUpCuda, machine: CudaMachine) -> None:
        """1 ms and 0.25 ms at once: neither waits for the other, and the short one repeats as long as the long one runs."""
        streams: dict[str, set[int]] = {"long": set(), "short": set()}
        gate = threading.Lock()

        def work(name: str, seconds: float) -> Callable[[], None]:
            def run() -> None:
                with gate:
                    streams[name].add(cuda.current)
                    cuda.kernel(seconds)

            return run

        long, short = machine.seconds_together([work("long", 1e-3), work("short", 0.25e-3)], repeats=4)
        assert long == pytest.approx([1e-3] * len(long))
        assert short == pytest.approx([0.25e-3] * len(short))
        assert len(long) >= 4
        assert len(short) >= 16
        alone, beside = ({0}, 2)
        assert all(alone < used and len(used) == beside for used in streams.values())
        assert streams["long"] & streams["short"] == alone

    def test_host_seconds_do_not_wait_for_the_device(self, cuda: MadeUpCuda, machine: CudaMachine) -> None:
        def work() -> None:
            cuda.host(7e-6)
            cuda.kernel(5e-3)

        assert machine.host_seconds(work, 3) == pytest.approx([7e-6] * 3)

    def test_the_device_is_idle_before_each_launch(self, cuda: MadeUpCuda, machine: CudaMachine) -> None:
        """A queue that is full makes the host wait."""
        machine.host_seconds(lambda: cuda.kernel(1e-3), 3)
        assert cuda.log == ["synchronize", "work", "synchronize", "work", "synchronize", "work", "synchronize"]

    def test_free_memory_is_the_driver_s_and_what_the_allocator_keeps(self, machine: CudaMachine) -> None:
        assert machine.free_bytes() == 3 * 2**30 + 2**30 - 2**28

    def test_clock_by_nvml(self, machine: CudaMachine, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "clock_rate", lambda device: 1980)
        assert machine.clock_hz() == 1.98e9

    @pytest.mark.parametrize(("told", "clock_hz"), [("1755", 1.755e9), (None, None), ("[N/A]", None)])
    def test_clock_without_nvml(
        self, machine: CudaMachine, monkeypatch: pytest.MonkeyPatch, told: str | None, clock_hz: float | None
    ) -> None:
        asked: list[tuple[str, object]] = []

        def missing(device: object) -> int:
            raise ModuleNotFoundError("pynvml does not seem to be installed")

        def value(field: str, *, uuid: object) -> str | None:
            asked.append((field, uuid))
            return told

        monkeypatch.setattr(torch.cuda, "clock_rate", missing)
        monkeypatch.setattr(machines, "reported_value", value)
        assert machine.clock_hz() == clock_hz
        assert asked == [("clocks.sm", "abc")]

    @pytest.mark.parametrize(("told", "watts"), [("698.25", 698.25), (None, None), ("[N/A]", None)])
    def test_power(
        self, machine: CudaMachine, monkeypatch: pytest.MonkeyPatch, told: str | None, watts: float | None
    ) -> None:
        asked: list[tuple[str, object]] = []

        def value(field: str, *, uuid: object) -> str | None:
            asked.append((field, uuid))
            return told

        monkeypatch.setattr(machines, "reported_value", value)
        assert machine.power_watts() == watts
        assert asked == [("power.draw", "abc")]


class TestHere:
    def test_a_cpu_without_cuda(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert machine_here().device == torch.device("cpu")

    def test_each_rank_its_own_gpu(self, cuda: MadeUpCuda, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
        assert machine_here(local_rank=2).device == torch.device("cuda", 2)
