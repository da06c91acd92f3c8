"""One piece of work timed while another runs beside it repeatedly, on its own stream or in its own thread."""

import math
import statistics
import threading
import time
import weakref

import torch

from .probe import JointWork, Machine, Work

_COVERED = 1.5
_LINGER_SECONDS = 5e-3
_CPU_MATMUL_SIZE = 256
_GPU_MATMUL_SIZE = 4096


def beside(work: Work, other: Work, machine: Machine) -> Work:
    """Return `work`, to be timed while `other` runs. `other` must not be a
    collective, because ranks run it unequally often."""
    if machine.device.type == "cuda":
        return _OnStream(work, other, machine)
    return _JointInThread(work, other) if isinstance(work, JointWork) else _InThread(work, other)


def busy_matmul(machine: Machine) -> Work:
    """Return compute to run beside other work: a square matmul that fills the device for the time of one kernel."""
    on_gpu = machine.device.type == "cuda"
    size, dtype = (_GPU_MATMUL_SIZE, torch.bfloat16) if on_gpu else (_CPU_MATMUL_SIZE, torch.float32)
    a, b, out = (torch.ones(size, size, dtype=dtype, device=machine.device) for _ in range(3))
    return lambda: torch.mm(a, b, out=out)


def busy_bytes(machine: Machine) -> float:
    """Return the device memory that `busy_matmul` takes."""
    on_gpu = machine.device.type == "cuda"
    return 3.0 * (2 * _GPU_MATMUL_SIZE**2 if on_gpu else 4 * _CPU_MATMUL_SIZE**2)


class _OnStream:
    """Each call starts enough of `other` on a second stream to outlast `work`, when the device reaches it.

    The remaining ones delay only the next ones on the second stream.
    """

    def __init__(self, work: Work, other: Work, machine: Machine) -> None:
        self._work, self._other = work, other
        work_seconds, other_seconds = (statistics.median(machine.seconds(each, 3)) for each in (work, other))
        self.times = math.ceil(_COVERED * work_seconds / other_seconds)
        self._stream = torch.cuda.Stream(machine.device)  # type: ignore[no-untyped-call]  # torch's

    def __call__(self) -> object:
        reached = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's
        reached.record()
        self._stream.wait_event(reached)
        with torch.cuda.stream(self._stream):
            for _ in range(self.times):
                self._other()
        return self._work()


class _InThread:
    """`other` runs in a thread while `work` does and a moment longer.

    It then need not be woken for the next repeat. The thread ends with this object.
    """

    def __init__(self, work: Work, other: Work) -> None:
        self._work = work
        self._loop = _Loop(other)
        weakref.finalize(self, self._loop.end)

    def __call__(self) -> object:
        self._loop.go_on()
        try:
            return self._work()
        finally:
            self._loop.pause()


class _JointInThread(_InThread, JointWork):
    """Joint work of ranks stays joint work beside something else."""


class _Loop:
    """Holds no reference to the object it serves, so that it can end when that object is gone."""

    def __init__(self, other: Work) -> None:
        self._other = other
        self._wanted, self._running = threading.Event(), threading.Event()
        self._until = 0.0
        self._ended = False
        self._failure: BaseException | None = None
        self._compute_threads = torch.get_num_threads()
        self._thread = threading.Thread(target=self._run, name="beside", daemon=True)
        self._thread.start()

    def go_on(self) -> None:
        """Return when `other` runs; raise its error, if it failed."""
        self._until = math.inf
        self._wanted.set()
        self._running.wait()
        if self._failure is not None:
            raise self._failure

    def pause(self) -> None:
        self._until = time.perf_counter() + _LINGER_SECONDS

    def end(self) -> None:
        self._ended = True
        self._wanted.set()

    def _run(self) -> None:
        torch.set_num_threads(self._compute_threads)  # a new thread would use all cores, not our share
        while self._wanted.wait() and not self._ended:
            self._running.set()
            try:
                self._other()
            except BaseException as failure:
                self._failure = failure
                return
            if time.perf_counter() > self._until:
                self._rest()

    def _rest(self) -> None:
        """Wait until wanted. It may have been wanted again just now."""
        self._running.clear()
        self._wanted.clear()
        if time.perf_counter() < self._until or self._ended:
            self._wanted.set()
