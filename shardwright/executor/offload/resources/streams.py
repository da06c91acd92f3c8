"""Work beside the compute: threads, each with a CUDA stream of its own where the device has them.

This is the only part of the engine that differs between devices. A job runs in its stream's thread, one after the other. On CUDA it
first waits on the device for what was enqueued before its submission. It ends when the device has done its copies.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Protocol

import torch
from torch import Tensor

Ticket = Future[None]
"""A submitted job. `result()` waits for its end, and raises what it raised."""


class Stream(Protocol):
    """Jobs that run in the order of their submission, beside those of other streams."""

    busy_seconds: float

    def submit(self, work: Callable[[], None], *, after: Sequence[Ticket] = ()) -> Ticket:
        """Run `work` once all tickets of `after` are done. If one of them raised, the job raises the same."""
        ...


class ThreadStream:
    """A thread with a queue of jobs."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.busy_seconds = 0.0
        self._device = device
        self._stream = _cuda_stream(device)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[], None], *, after: Sequence[Ticket] = ()) -> Ticket:
        issued = torch.cuda.current_stream(self._device).record_event() if self._stream is not None else None
        job = _Job(work, tuple(after), issued)
        self._jobs.put(job)
        return job.ticket

    def close(self) -> None:
        """End the thread after the jobs that it has."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        with torch.no_grad():
            while (job := self._jobs.get()) is not None:
                job.run(self)
                del job  # what it holds is free before the next job comes

    @contextlib.contextmanager
    def issuing(self, issued: torch.cuda.Event | None) -> Iterator[None]:
        """Enqueue what runs inside on this stream, after the event `issued`; then wait for it."""
        begin = time.perf_counter()
        if self._stream is None or issued is None:
            yield
        else:
            torch.cuda.set_device(self._device)
            with torch.cuda.stream(self._stream):
                self._stream.wait_event(issued)
                yield
            self._stream.synchronize()
        self.busy_seconds += time.perf_counter() - begin


def _cuda_stream(device: torch.device) -> torch.cuda.Stream | None:
    if device.type != "cuda":
        return None
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's


class _Job:
    def __init__(self, work: Callable[[], None], after: tuple[Ticket, ...], issued: torch.cuda.Event | None) -> None:
        self.ticket: Ticket = Future()
        self._work, self._after, self._issued = work, after, issued

    def run(self, stream: ThreadStream) -> None:
        try:
            for earlier in self._after:
                earlier.result()
            with stream.issuing(self._issued):
                self._work()
        except BaseException as error:
            self.ticket.set_exception(error)
        else:
            self.ticket.set_result(None)


class InlineStream:
    """Runs each job at once, in the thread that submits it: the same work in sequence."""

    def __init__(self) -> None:
        self.busy_seconds = 0.0

    def submit(self, work: Callable[[], None], *, after: Sequence[Ticket] = ()) -> Ticket:
        ticket: Ticket = Future()
        for earlier in after:
            earlier.result()
        begin = time.perf_counter()
        with torch.no_grad():
            work()
        self.busy_seconds += time.perf_counter() - begin
        ticket.set_result(None)
        return ticket

    def close(self) -> None:
        """Nothing runs on."""


class Streams:
    """The engine's streams: `down` and `up` copy between device and host, `host` updates there, `drive_in` and `drive_out` read and
    write. `in_sequence` runs all of it inline, to measure what the streams hide. `waited_seconds`: how long passes have waited for jobs.
    """

    def __init__(self, device: torch.device, *, in_sequence: bool = False) -> None:
        self.waited_seconds = 0.0
        cpu = torch.device("cpu")  # cores and drives have no stream of the device

        def stream(name: str, on: torch.device) -> ThreadStream | InlineStream:
            return InlineStream() if in_sequence else ThreadStream(f"offload-{name}", on)

        self.down, self.up = stream("down", device), stream("up", device)
        self.host, self.drive_in, self.drive_out = (stream(name, cpu) for name in ("host", "drive-in", "drive-out"))

        self._all = {name: getattr(self, name) for name in ("down", "up", "host", "drive_in", "drive_out")}

    @property
    def busy_seconds(self) -> dict[str, float]:
        """Seconds of work of each stream so far."""
        return {name: stream.busy_seconds for name, stream in self._all.items()}

    def wait(self, tickets: Iterable[Ticket]) -> None:
        """Let the calling pass wait for jobs; raises what they raised."""
        begin = time.perf_counter()
        for ticket in tickets:
            ticket.result()
        self.waited_seconds += time.perf_counter() - begin

    def close(self) -> None:
        """End all threads after the jobs that they have."""
        for stream in self._all.values():
            stream.close()


def hand_over(tensor: Tensor) -> Tensor:
    """Return a tensor that a stream filled, for use on the current one: its memory is not given away before that use ends."""
    if tensor.device.type == "cuda":
        tensor.record_stream(torch.cuda.current_stream(tensor.device))
    return tensor
