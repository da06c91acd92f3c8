"""Several works that run at once, each repeatedly in its own thread. Only overlapping repeats count."""

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .probe import Work

_MOST_REPEATS = 10_000
_LASTING_LONGER = 1.5
_LAST_REPEAT_SECONDS = 3.0


@dataclass(frozen=True)
class Span:
    """One repeat among works that run at once, counted from a common start."""

    start_seconds: float
    end_seconds: float
    calls: int = 1

    @property
    def seconds(self) -> float:
        """Seconds of one call of the work."""
        return (self.end_seconds - self.start_seconds) / self.calls


class HostRunner:
    """Repeats one work in its own thread and records its times."""

    def __init__(self, work: Work, calls: int) -> None:
        self._work = work
        self.calls = calls
        self.spans: list[Span] = []

    def run(self, count: int, stopped: threading.Event) -> None:
        for _ in range(count):
            if stopped.is_set():
                return
            start = time.perf_counter()
            for _ in range(self.calls):
                self._work()
            self.spans.append(Span(start, time.perf_counter(), self.calls))


class StreamRunner:
    """Repeats one work on its own stream, between events."""

    def __init__(
        self,
        work: Work,
        device: torch.device,
        begin: torch.cuda.Event,
        starts: list[torch.cuda.Event],
        ends: list[torch.cuda.Event],
    ) -> None:
        self._work = work
        self._device = device
        self._begin, self._starts, self._ends = begin, starts, ends

    def run(self, count: int, stopped: threading.Event) -> None:
        assert count == len(self._starts)
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]  # torch's
        with torch.cuda.device(self._device), torch.cuda.stream(stream):
            stream.wait_event(self._begin)
            for start, end in zip(self._starts, self._ends, strict=True):
                if stopped.is_set():
                    return
                start.record()
                self._work()
                end.record()

    @property
    def spans(self) -> list[Span]:
        """Return the spans. The device must be idle."""
        return [
            Span(seconds_between(self._begin, start), seconds_between(self._begin, end))
            for start, end in zip(self._starts, self._ends, strict=True)
        ]


def run_together(runners: Sequence[HostRunner | StreamRunner], counts: Sequence[int]) -> None:
    """Run each runner in a thread, all started at once; raise an error of any of them here.

    A signal ends the others after their current repeat. An interpreter that ended before its threads would abort.
    """
    gate, stopped = threading.Barrier(len(runners)), threading.Event()
    compute_threads = torch.get_num_threads()
    failures: list[BaseException] = []

    def run(runner: HostRunner | StreamRunner, count: int) -> None:
        torch.set_num_threads(compute_threads)  # a new thread would use all cores, not this rank's share
        try:
            gate.wait()
            runner.run(count, stopped)
        except BaseException as failure:
            failures.append(failure)

    threads = [
        threading.Thread(target=run, args=(runner, count), daemon=True)
        for runner, count in zip(runners, counts, strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException:
        stopped.set()
        for thread in threads:
            thread.join(_LAST_REPEAT_SECONDS)
        raise
    if failures:
        raise failures[0]


def repeats_of_each(alone_seconds: Sequence[float], repeats: int) -> list[int]:
    """Return the repeats of each work, so that all last about equally long and the slowest repeats at least `repeats`
    times.

    The numbers are fixed before the start, because every rank must call a collective equally often.
    """
    slowest = max(alone_seconds)
    lasting = _LASTING_LONGER * repeats * slowest
    return [min(_MOST_REPEATS, math.ceil(lasting / max(seconds, slowest / _MOST_REPEATS))) for seconds in alone_seconds]


def while_all_ran(spans: Sequence[Sequence[Span]]) -> list[list[float]]:
    """Return for each work the seconds of the repeats during which all
    others ran; all its repeats if there are none."""
    start = max(each[0].start_seconds for each in spans)
    end = min(each[-1].end_seconds for each in spans)
    return [
        [span.seconds for span in each if span.start_seconds >= start and span.end_seconds <= end]
        or [span.seconds for span in each]
        for each in spans
    ]


def seconds_between(start: torch.cuda.Event, end: torch.cuda.Event) -> float:
    """Return the seconds of device time between two events, both reached."""
    return float(start.elapsed_time(end)) / 1e3  # elapsed_time is in milliseconds
