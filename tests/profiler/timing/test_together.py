"""Which repeats count of works that run at once."""

import os
import signal
import threading
import time

import pytest

from shardwright.profiler.session.interruption import InterruptedBySignalError, Interruption
from shardwright.profiler.timing.together import HostRunner, Span, repeats_of_each, run_together, while_all_ran


class TestCounts:
    def test_all_last_equally_long(self) -> None:
        assert repeats_of_each([1.0, 0.25], 4) == [6, 24]

    def test_alike_works(self) -> None:
        assert repeats_of_each([0.5, 0.5], 10) == [15, 15]

    def test_a_work_without_end_to_its_repeats(self) -> None:
        assert repeats_of_each([1.0, 0.0], 10) == [15, 10_000]


class TestSignals:
    def test_a_signal_leaves_no_thread_behind(self) -> None:
        """Works that would go on for ten seconds are at an end when the signal comes out of it."""
        before = set(threading.enumerate())
        interruption = Interruption()
        runners = [HostRunner(lambda: time.sleep(0.01), 1) for _ in range(2)]
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with interruption.listening(), pytest.raises(InterruptedBySignalError):
            run_together(runners, [1000, 1000])
        timer.join()
        assert {
            thread for thread in threading.enumerate() if thread.is_alive()
        } <= before  # an earlier one may have ended
        assert all(0 < len(runner.spans) < 900 for runner in runners)


class TestOverlap:
    def test_only_what_overlapped_counts(self) -> None:
        """The first of `slow` begins before the other runs, its last ends after: only the middle one counts."""
        slow = [Span(0, 2), Span(2, 5), Span(5, 9)]
        quick = [Span(1, 3), Span(3, 4), Span(4, 6)]
        assert while_all_ran([slow, quick]) == [[3], [2, 1, 2]]

    def test_all_where_none_did(self) -> None:
        assert while_all_ran([[Span(0, 10)], [Span(4, 5), Span(5, 6)]]) == [[10], [1, 1]]

    def test_seconds_are_of_one_call(self) -> None:
        assert Span(1.0, 3.0, calls=4).seconds == pytest.approx(0.5)
